#!/usr/bin/env bash
# LEAD's warm-up of the 12-layer cross-encoder teacher; ten batches make an update.
#
#   bash example_scripts/lead/train_12_layer_ce.sh DATASET MASTER_PORT \
#       MAX_DOC_LENGTH MAX_QUERY_LENGTH TRAIN_BATCH_SIZE NUM_NEGATIVES
set -euo pipefail
source example_scripts/lead/common.sh

require "$TRAINING" "$@"
place "$1" "$2"
MAX_DOC_LENGTH=$3 MAX_QUERY_LENGTH=$4 TRAIN_BATCH_SIZE=$5 NUM_NEGATIVES=$6
shift 6

train 12_layer_ce 20000 10 --train_data "$DATA/train-hard.jsonl" --retriever_kind cross \
    --retriever_model_path "$MODEL_12" --lr_retriever 1e-5 "$@"
