#!/usr/bin/env bash
# MMLU without any training, options in all four rotations.
#
#   bash example_scripts/mmlu/zero_shot.sh
#   python -m gazetteer.evaluation.mmlu_summary atlas_data/experiments/mmlu-zero-shot-large/*.jsonl
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh
source example_scripts/mmlu/common.sh

launch evaluate.py "${READING[@]}" --name "${NAME:-mmlu-zero-shot-$SIZE}" \
    --eval_data "$MMLU/full/combined_test.jsonl" "$@"
