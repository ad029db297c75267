#!/usr/bin/env bash
# LEAD's hard negatives: what the miner finds for the training queries, judged passages left out.
#
#   bash example_scripts/lead/retrieve_hard_negatives_academic.sh DATASET MASTER_PORT \
#       MODEL_PATH CKPT_NAME MAX_DOC_LENGTH MAX_QUERY_LENGTH
#
# MODEL_PATH is the folder of the miner's stage (SAVE_DIR/mspas/12_layer_miner), CKPT_NAME a step.
# Of the first 500 passages of each query 100 are kept, the best ones, with rank and score.
set -euo pipefail
source example_scripts/lead/common.sh

NAMES="DATASET MASTER_PORT MODEL_PATH CKPT_NAME MAX_DOC_LENGTH MAX_QUERY_LENGTH"
require "$NAMES" "$@"
place "$1" "$2"
MINER=$3 STEP=$4 MAX_DOC_LENGTH=$5 MAX_QUERY_LENGTH=$6
shift 6

MODEL=$MINER/checkpoint/step-$STEP/retriever
RUN=$MINER/runs/train-step-$STEP.trec
search "$MODEL" "$DATA/train.queries.tsv" "$MINER/index/step-$STEP" "$RUN" 500
run python preprocessing/build_hn.py --tokenizer_name "$MODEL" --hn_file "$RUN" \
    --qrels "$DATA/train.qrels.tsv" --queries "$DATA/train.queries.tsv" \
    --collection "$DATA/corpus.tsv" --save_to "$DATA/hard" --form reference --merge \
    --depth 100 --n_sample 100 "$@"
run cp "$DATA/hard/train.hn.jsonl" "$DATA/train-hard.jsonl"
