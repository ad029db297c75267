#!/usr/bin/env bash
# Pre-training of reader and retriever by going on with the beginning of a passage.
#
#   bash example_scripts/pretraining/lm.sh
#
# From plain T5 and Contriever. The passages are the training data; the one in question is not
# retrieved.
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh
source example_scripts/pretraining/common.sh

launch train.py --task lm --name "${NAME:-pretraining-lm-$SIZE}" "${PRETRAINING[@]}" \
    --min_lm_context_ratio 0.25 --max_lm_context_ratio 0.75 "$@"
