#!/usr/bin/env bash
# Pre-training of reader and retriever by filling gaps in passages, others of which are retrieved.
#
#   bash example_scripts/pretraining/mlm.sh
#
# From plain T5 and Contriever. The passages are the training data; the one in question is not
# retrieved.
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh
source example_scripts/pretraining/common.sh

launch train.py --task mlm --name "${NAME:-pretraining-mlm-$SIZE}" "${PRETRAINING[@]}" \
    --mlm_noise_density 0.15 --mlm_mean_noise_span_length 3 "$@"
