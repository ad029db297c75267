#!/usr/bin/env bash
# Pre-training of reader and retriever by writing the text under a title and a section.
#
#   bash example_scripts/pretraining/section.sh
#
# From plain T5 and Contriever. The passages are the training data; the one in question is not
# retrieved. The release of Atlas has no script for
# it; settings are those of mlm.sh.
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh
source example_scripts/pretraining/common.sh

launch train.py --task section --name "${NAME:-pretraining-section-$SIZE}" "${PRETRAINING[@]}" "$@"
