#!/usr/bin/env bash
# MRR@10, MAP and recall of a 12-layer dual encoder on the development queries, checkpoint after
# checkpoint: FIRST_STEPS, FIRST_STEPS + EVAL_STEPS, ... up to MAX_STEPS.
#
#   bash example_scripts/lead/evaluate_12_layer_de.sh DATASET MASTER_PORT MODEL_PATH \
#       FIRST_STEPS EVAL_STEPS MAX_STEPS MAX_DOC_LENGTH MAX_QUERY_LENGTH
#
# MODEL_PATH is the folder of a stage, such as SAVE_DIR/mspas/12cb_to_12de.
set -euo pipefail
source example_scripts/lead/common.sh

NAMES="DATASET MASTER_PORT MODEL_PATH FIRST_STEPS EVAL_STEPS MAX_STEPS MAX_DOC_LENGTH"
require "$NAMES MAX_QUERY_LENGTH" "$@"
place "$1" "$2"
MAX_DOC_LENGTH=$7 MAX_QUERY_LENGTH=$8

evaluate_steps "$3" "$4" "$5" "$6"
