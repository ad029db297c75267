#!/usr/bin/env bash
# FEVER: is a claim supported, refuted, or neither? From 64 examples, or from all: SHOTS=all.
#
#   bash example_scripts/fever/train.sh
#
# Settings are those of Natural Questions; the release of Atlas has no script for FEVER.
#SBATCH --nodes=4 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

FOLDER=$DATA_DIR/data/fever_data
if [[ ${SHOTS:-64} == all ]]; then TRAIN=$FOLDER/train.jsonl; else TRAIN=$FOLDER/train-64.jsonl; fi
EVAL=$FOLDER/dev.jsonl
NAME=${NAME:-fever-${SHOTS:-64}-$SIZE}
STEPS=${STEPS:-30}

launch train.py --task fever --name "$NAME" --checkpoint_dir "$SAVE_DIR" \
    --train_data "$TRAIN" --eval_data "$EVAL" --shuffle --rank_candidates \
    --passages "${PASSAGES[@]}" --reader_model_type "$READER" --model_path "$PRETRAINED" \
    --train_retriever --query_side_retriever_training --refresh_index -1 \
    --gold_score_mode pdist --temperature_gold 0.01 --temperature_score 0.01 \
    --n_context 40 --retriever_n_context 40 --text_maxlength 512 --target_maxlength 16 \
    --per_gpu_batch_size 2 --precision fp32 "${SAVE_MEMORY[@]}" \
    --lr 4e-5 --lr_retriever 4e-5 --scheduler linear --dropout 0.1 --weight_decay 0.01 \
    --warmup_steps 5 --total_steps "$STEPS" --eval_freq "$STEPS" --save_freq "$STEPS" --log_freq 4 \
    --write_results "$@"
