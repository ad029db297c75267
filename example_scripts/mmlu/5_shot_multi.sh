#!/usr/bin/env bash
# MMLU, one model from the five questions of all 57 subjects.
#
#   bash example_scripts/mmlu/5_shot_multi.sh
#
# Atlas's script takes 250 steps and evaluates every 16; its text says 2000 and 150 (STEPS, EVERY).
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh
source example_scripts/mmlu/common.sh

STEPS=${STEPS:-250}
EVERY=${EVERY:-16}
FOLDER=$MMLU/5-shot-multitask

launch train.py "${READING[@]}" "${TRAINING[@]}" --name "${NAME:-mmlu-5-shot-multi-$SIZE}" \
    --train_data "$FOLDER/train.jsonl" \
    --eval_data "$FOLDER/combined_valid.jsonl" "$FOLDER/combined_test.jsonl" \
    --query_side_retriever_training --refresh_index -1 \
    --warmup_steps 25 --total_steps "$STEPS" --eval_freq "$EVERY" --save_freq "$STEPS" --log_freq 4 "$@"
