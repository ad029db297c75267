#!/usr/bin/env bash
# All of LEAD, stage after stage, on one collection.
#
#   bash example_scripts/lead/all.sh DATASET MASTER_PORT DISTILL_LAYER_NUM \
#       MAX_DOC_LENGTH MAX_QUERY_LENGTH TRAIN_BATCH_SIZE NUM_NEGATIVES WARM_RATIO
#
# DATA_DIR/lead/DATASET holds corpus.tsv (id, title, text), train.jsonl, and queries and judgements
# as train.queries.tsv, train.qrels.tsv, dev.queries.tsv, dev.qrels.tsv. For a small collection set
# STEPS and SAVE_STEPS to the same small number, and the MODEL_ variables to small models.
set -euo pipefail
source example_scripts/lead/common.sh

require "$DISTILLATION" "$@"
place "$1" "$2"
LAYERS=$3 LENGTHS=("$4" "$5") BATCH=("$6" "$7") WARM_RATIO=$8
LAST=${STEPS:-20000}
TRAINED=checkpoint/latest/retriever

# stage SCRIPT WORD ...: a stage on this collection.
stage() { bash "example_scripts/lead/$1.sh" "$DATASET" "$PORT" "${@:2}"; }
DATASET=$1 PORT=$2

stage train_de "${LENGTHS[@]}" "${BATCH[@]}"
stage retrieve_hard_negatives_academic "$RUNS/12_layer_miner" "$LAST" "${LENGTHS[@]}"
for model in 6_layer_de 12_layer_de 12_layer_col 12_layer_ce 24_layer_col; do
    stage "train_$model" "${LENGTHS[@]}" "${BATCH[@]}"
done
for pair in "12de 12_layer_de 6" "12cb 12_layer_col 6" "12ce 12_layer_ce 6" "24cb 24_layer_col 12"; do
    read -r short teacher size <<< "$pair"
    stage "distill_from_${short}_to_${size}de" "$LAYERS" "${LENGTHS[@]}" "${BATCH[@]}" \
        "$WARM_RATIO" "$RUNS/$teacher/$TRAINED" "$RUNS/${size}_layer_de/$TRAINED"
done
# Name, layers, updates, batches of an update: checkpoints are named after batches.
for row in "6_layer_de 6 20000 1" "12de_to_6de 6 50000 1" "12cb_to_6de 6 50000 1" \
    "12ce_to_6de 6 100000 10" "24cb_to_12de 12 50000 1"; do
    read -r trained size updates batches <<< "$row"
    last=$((${STEPS:-$updates} * batches))
    stage "evaluate_${size}_layer_de" "$RUNS/$trained" "$last" "$last" "$last" "${LENGTHS[@]}"
done
