#!/usr/bin/env bash
# TempLAMA: learn questions of one year, with the passages of that year.
#
#   YEAR=2017 bash example_scripts/templama/train.sh
#
# evaluate.sh then asks about either year, with passages of either.
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

YEAR=${YEAR:-2017}
STEPS=${STEPS:-100}
NAME=${NAME:-templama-$YEAR-$SIZE}
FOLDER=$DATA_DIR/data/templama_data
WIKI=$DATA_DIR/corpora/wiki/enwiki-dec$YEAR

# The questions are clozes with a blank of their own: no prompt around them.
launch train.py --task qa --qa_prompt_format "{question}" --name "$NAME" --checkpoint_dir "$SAVE_DIR" \
    --train_data "$FOLDER/temp_lama.train.$YEAR.jsonl" \
    --eval_data "$FOLDER/temp_lama.valid.$YEAR.jsonl" --shuffle \
    --passages "$WIKI/text-list-100-sec.jsonl" "$WIKI/infobox.jsonl" \
    --reader_model_type "$READER" --model_path "$PRETRAINED" \
    --train_retriever --query_side_retriever_training --refresh_index -1 \
    --gold_score_mode pdist --temperature_gold 0.01 --temperature_score 0.01 \
    --n_context 20 --retriever_n_context 20 --text_maxlength 512 --target_maxlength 16 \
    --per_gpu_batch_size 1 --precision fp32 "${SAVE_MEMORY[@]}" \
    --lr 4e-5 --lr_retriever 4e-5 --scheduler linear --dropout 0.1 --weight_decay 0.01 \
    --warmup_steps 20 --total_steps "$STEPS" --eval_freq 20 --save_freq "$STEPS" --log_freq 4 \
    --write_results "$@"
