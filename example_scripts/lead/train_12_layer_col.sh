#!/usr/bin/env bash
# LEAD's warm-up of the 12-layer late-interaction teacher (ColBERT).
#
#   bash example_scripts/lead/train_12_layer_col.sh DATASET MASTER_PORT \
#       MAX_DOC_LENGTH MAX_QUERY_LENGTH TRAIN_BATCH_SIZE NUM_NEGATIVES
set -euo pipefail
source example_scripts/lead/common.sh

require "$TRAINING" "$@"
place "$1" "$2"
MAX_DOC_LENGTH=$3 MAX_QUERY_LENGTH=$4 TRAIN_BATCH_SIZE=$5 NUM_NEGATIVES=$6
shift 6

train 12_layer_col 20000 1 --train_data "$DATA/train-hard.jsonl" --retriever_kind colbert \
    --retriever_model_path "$MODEL_12" --lr_retriever 2e-5 "$@"
