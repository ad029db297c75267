#!/usr/bin/env bash
# LEAD: a 12-layer dual encoder teaches one of 6 layers.
#
#   bash example_scripts/lead/distill_from_12de_to_6de.sh DATASET MASTER_PORT DISTILL_LAYER_NUM \
#       MAX_DOC_LENGTH MAX_QUERY_LENGTH TRAIN_BATCH_SIZE NUM_NEGATIVES WARM_RATIO \
#       DE_MODEL_PATH DB_MODEL_PATH
#
# The two paths are folders of the warm-up stages, or of any model of that kind.
set -euo pipefail
source example_scripts/lead/common.sh

require "$DISTILLATION DE_MODEL_PATH DB_MODEL_PATH" "$@"
place "$1" "$2"
DISTILL_LAYER_NUM=$3 MAX_DOC_LENGTH=$4 MAX_QUERY_LENGTH=$5 TRAIN_BATCH_SIZE=$6 NUM_NEGATIVES=$7
WARM_RATIO=$8 TEACHER=$9 STUDENT=${10}
shift 10

distill 12de_to_6de 50000 1 --teacher_kind de --teacher "$(model_of "$TEACHER")" \
    --retriever_model_path "$(model_of "$STUDENT")" --lr_retriever 5e-5 "$@"
