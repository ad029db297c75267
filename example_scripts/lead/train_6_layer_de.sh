#!/usr/bin/env bash
# LEAD's warm-up of the 6-layer student.
#
#   bash example_scripts/lead/train_6_layer_de.sh DATASET MASTER_PORT \
#       MAX_DOC_LENGTH MAX_QUERY_LENGTH TRAIN_BATCH_SIZE NUM_NEGATIVES
set -euo pipefail
source example_scripts/lead/common.sh

require "$TRAINING" "$@"
place "$1" "$2"
MAX_DOC_LENGTH=$3 MAX_QUERY_LENGTH=$4 TRAIN_BATCH_SIZE=$5 NUM_NEGATIVES=$6
shift 6

train 6_layer_de 20000 1 --train_data "$DATA/train-hard.jsonl" \
    --retriever_model_path "$MODEL_6" --lr_retriever 2e-5 "$@"
