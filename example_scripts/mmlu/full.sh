#!/usr/bin/env bash
# MMLU, one model from the auxiliary questions and the five of every subject.
#
#   bash example_scripts/mmlu/full.sh
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh
source example_scripts/mmlu/common.sh

STEPS=${STEPS:-2000}
FOLDER=$MMLU/full

launch train.py "${READING[@]}" "${TRAINING[@]}" --name "${NAME:-mmlu-full-$SIZE}" \
    --train_data "$FOLDER/train.jsonl" \
    --eval_data "$FOLDER/combined_valid.jsonl" "$FOLDER/combined_test.jsonl" \
    --query_side_retriever_training --refresh_index -1 \
    --warmup_steps 50 --total_steps "$STEPS" --eval_freq 150 --save_freq "$STEPS" --log_freq 10 "$@"
