#!/usr/bin/env bash
# Make the demo's reader again, from nothing but the Factbook text of the training countries.
#
#   bash example_scripts/factbook/train_reader.sh OUTPUT_FOLDER
#
# A tokenizer and seeded initial weights, then four stages with this project's own train.py: find and
# copy one fact, read a short passage beside another, then the demo's questions among four passages
# and among five. About half an hour on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${1:?usage: train_reader.sh OUTPUT_FOLDER}

python preprocessing/prepare_factbook.py --output_directory "$OUT/factbook"
python preprocessing/prepare_demo_reader.py --factbook_directory "$OUT/factbook" \
    --output_directory "$OUT/stages" --scale 1.5

COMMON=(--task qa --use_file_passages --checkpoint_dir "$OUT/experiments" --cache_dir "$OUT/cache"
    --text_maxlength 256 --target_maxlength 48 --generation_max_length 40
    --precision bf16 --dropout 0 --weight_decay 0.01 --beta2 0.99
    --log_freq 50 --save_freq 200)
run() { torchrun --standalone --nproc_per_node 2 train.py "${COMMON[@]}" "$@"; }
reader_of() { echo "$OUT/experiments/$1/checkpoint/latest/reader"; }

run --name stage1 --train_data "$OUT/stages/stage1.jsonl" --reader_model_type "$OUT/stages/reader" \
    --n_context 1 --per_gpu_batch_size 16 --lr 1e-3 --scheduler fixed \
    --warmup_steps 50 --total_steps 600
run --name stage2 --train_data "$OUT/stages/stage2.jsonl" --reader_model_type "$(reader_of stage1)" \
    --n_context 2 --per_gpu_batch_size 8 --lr 1e-3 --scheduler fixed \
    --warmup_steps 20 --total_steps 900
run --name stage3 --train_data "$OUT/stages/stage3.jsonl" --reader_model_type "$(reader_of stage2)" \
    --n_context 4 --per_gpu_batch_size 8 --lr 8e-4 --scheduler linear \
    --warmup_steps 20 --total_steps 700

run --name stage4 --train_data "$OUT/stages/stage4.jsonl" --reader_model_type "$(reader_of stage3)" \
    --n_context 5 --per_gpu_batch_size 8 --lr 6e-4 --scheduler linear \
    --warmup_steps 20 --total_steps 600

mkdir -p example_scripts/factbook/reader
cp "$(reader_of stage4)"/* example_scripts/factbook/reader/
