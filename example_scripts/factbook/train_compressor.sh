#!/usr/bin/env bash
# Make the demo's compressor again, and the reader that goes with it: sixteen tokens become one vector.
#
#   bash example_scripts/factbook/train_compressor.sh OUTPUT_FOLDER
#
# From the demo's reader, whose encoder is copied: find and copy one fact, read a short passage beside
# another, as that reader learned it, then the demo's questions among two passages and among five. All of
# it is about the training countries. About an hour on two CPU cores; the same command again goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${1:?usage: train_compressor.sh OUTPUT_FOLDER}
WORKERS=${WORKERS:-2}
READER=example_scripts/factbook/reader

python preprocessing/prepare_factbook.py --output_directory "$OUT/factbook"
python preprocessing/prepare_demo_reader.py --factbook_directory "$OUT/factbook" \
    --output_directory "$OUT/stages" --scale 1.5 --titles_in_text
for PASSAGES in 2 5; do
    python preprocessing/prepare_factbook_records.py --source "$OUT/factbook" --documents "$PASSAGES" \
        --output_directory "$OUT/records-$PASSAGES"
    python -m gazetteer.compress.lines --records "$OUT/records-$PASSAGES/train.json" \
        --output_file "$OUT/stages/questions-$PASSAGES.jsonl"
done

COMMON=(--task qa --use_file_passages --checkpoint_dir "$OUT/experiments" --cache_dir "$OUT/cache"
    --text_maxlength 256 --target_maxlength 48 --generation_max_length 40 --shuffle --scheduler fixed
    --encoder_format '{query} context: {text}' --compressor_format '{query} context: {text}'
    --compressor n_layers --compressor_layers 3 --compressor_pooling mean --compression_rate 16
    --precision bf16 --dropout 0 --weight_decay 0.01 --beta2 0.99 --log_freq 50 --save_freq 200)
# run NAME PASSAGES BATCH RATE STEPS ...: the batch is that of all workers.
run() {
    local NAME=$1 PASSAGES=$2 BATCH=$(($3 / WORKERS)) RATE=$4 STEPS=$5
    shift 5
    torchrun --standalone --nproc_per_node "$WORKERS" train.py "${COMMON[@]}" --name "$NAME" \
        --n_context "$PASSAGES" --per_gpu_batch_size "$BATCH" --lr "$RATE" --lr_compressor "$RATE" \
        --warmup_steps 20 --total_steps "$STEPS" "$@"
}
made() { echo "$OUT/experiments/$1/checkpoint/latest"; }

run one-fact 1 32 1e-3 1800 --reader_model_type "$READER" --train_data "$OUT/stages/stage1.jsonl"
run two-passages 2 16 1e-3 1200 --model_path "$(made one-fact)" --train_data "$OUT/stages/stage2.jsonl"
run among-two 2 16 1e-3 1033 --model_path "$(made two-passages)" --train_data "$OUT/stages/questions-2.jsonl"
run among-five 5 8 8e-4 1000 --model_path "$(made among-two)" --scheduler linear \
    --train_data "$OUT/stages/stage4.jsonl" "$OUT/stages/questions-5.jsonl"

rm -rf "$OUT/compressed"
python -m gazetteer.export "$(made among-five)" --to models --output "$OUT/compressed"
mkdir -p example_scripts/factbook/compressed
cp -r "$OUT/compressed/." example_scripts/factbook/compressed/
