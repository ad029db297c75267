#!/usr/bin/env bash
# MS MARCO passages with a dense retriever, in OpenMatch's five steps, twice trained: on the negatives
# that come with the collection, then on what the first model finds and nobody judged relevant.
#
#   bash example_scripts/dense/msmarco.sh
#
# RAW holds marco.tar.gz of RocketQA, unpacked, and qidpidtriples.train.full.2.tsv and
# qrels.train.tsv of Microsoft (preprocessing/prepare_msmarco.py says where they are). MODEL is a T5
# whose weights are scaled, or any encoder such as BERT. Global batch of the settings below: 8 queries
# for each of WORKERS processes; OpenMatch's numbers are with 256 in all.
#SBATCH --nodes=1 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

RAW=${RAW:-$DATA_DIR/marco}
MODEL=${MODEL:-$DATA_DIR/models/t5-base-scaled}
OUT=${OUT:-$SAVE_DIR/msmarco}
QRELS_DEV=${QRELS_DEV:-$RAW/qrels.dev.tsv}
TITLED="Title: <title> Text: <text>"

BATCH=${BATCH:-8}                # queries per process
EVAL_BATCH=${EVAL_BATCH:-256}    # texts embedded at once
PER_QUERY=${PER_QUERY:-8}        # per query: a positive and its negatives
N_SAMPLE=${N_SAMPLE:-30}         # negatives kept per query
DEPTH=${DEPTH:-200}              # candidates that hard negatives are drawn from
VALIDATION=${VALIDATION:-500}    # lines held out
EPOCHS=${EPOCHS:-3}
LR=${LR:-5e-6}
SAVE_STEPS=${SAVE_STEPS:-20000}
Q_LEN=${Q_LEN:-32}
P_LEN=${P_LEN:-128}
read -ra TRAIN_FLAGS <<<"${TRAIN_FLAGS:---fp16 --negatives_x_device}"
read -ra MODEL_FLAGS <<<"${MODEL_FLAGS:-}"      # such as --pooling mean --normalize
read -ra HN_FLAGS <<<"${HN_FLAGS:-}"            # such as --positive_margin --filter_duplicates
CACHE=${CACHE:-$OUT/cache}

# alone PROGRAM [WORD ...]: one process, which uses all cores.
alone() {
    if [[ $LAUNCHER == print ]]; then launch "$@"; else python "$@"; fi
}

# train_on LINES VALIDATION MODEL OUTPUT
train_on() {
    launch -m gazetteer.dense.train_dr --output_dir "$4" --model_name_or_path "$3" --do_train \
        --save_steps "$SAVE_STEPS" --eval_steps "$SAVE_STEPS" --train_path "$1" --eval_path "$2" \
        --per_device_train_batch_size "$BATCH" --train_n_passages "$PER_QUERY" \
        --learning_rate "$LR" --q_max_len "$Q_LEN" --p_max_len "$P_LEN" \
        --num_train_epochs "$EPOCHS" --logging_dir "$4/logs" --evaluation_strategy steps \
        --doc_template "$TITLED" --data_cache_dir "$CACHE" "${MODEL_FLAGS[@]}" "${TRAIN_FLAGS[@]}"
}

# embed MODEL INDEX
embed() {
    launch -m gazetteer.dense.build_index --output_dir "$2" --model_name_or_path "$1" \
        --per_device_eval_batch_size "$EVAL_BATCH" --corpus_path "$OUT/corpus.tsv" \
        --doc_template "$TITLED" --doc_column_names id,title,text \
        --q_max_len "$Q_LEN" --p_max_len "$P_LEN" --fp16 --dataloader_num_workers 1 \
        --data_cache_dir "$CACHE"
}

# search MODEL INDEX QUERIES RUN DEPTH
search() {
    launch -m gazetteer.dense.retrieve --output_dir "$2" --model_name_or_path "$1" \
        --per_device_eval_batch_size "$EVAL_BATCH" --query_path "$3" --query_template "<text>" \
        --query_column_names id,text --q_max_len "$Q_LEN" --fp16 --trec_save_path "$4" \
        --retrieve_depth "$5" --dataloader_num_workers 1 --data_cache_dir "$CACHE"
}

LINES=(--tokenizer_name "$MODEL" --qrels "$RAW/qrels.train.tsv" --queries "$RAW/train.query.txt"
    --collection "$OUT/corpus.tsv" --save_to "$OUT/lines" --doc_template "$TITLED"
    --truncate "$P_LEN" --n_sample "$N_SAMPLE" --cache_dir "$CACHE" --merge
    --validation_size "$VALIDATION")

alone preprocessing/prepare_msmarco.py --para "$RAW/para.txt" --para_title "$RAW/para.title.txt" \
    --triples "$RAW/qidpidtriples.train.full.2.tsv" --output_dir "$OUT"

# 1. Lines to train on, and a first model.
alone preprocessing/build_train.py --negative_file "$OUT/train.negatives.tsv" "${LINES[@]}"
train_on "$OUT/lines/train.new.jsonl" "$OUT/lines/val.jsonl" "$MODEL" "$OUT/stage1"

# 2. and 3. What it finds for the training queries.
embed "$OUT/stage1" "$OUT/index1"
search "$OUT/stage1" "$OUT/index1" "$RAW/train.query.txt" "$OUT/train.trec" "$DEPTH"

# 4. The best of that which nobody judged relevant, and a second model.
alone preprocessing/build_hn.py --hn_file "$OUT/train.trec" --depth "$DEPTH" "${LINES[@]}" \
    "${HN_FLAGS[@]}"
train_on "$OUT/lines/train.new.hn.jsonl" "$OUT/lines/val.hn.jsonl" "$OUT/stage1" "$OUT/stage2"

# 5. How well that searches.
embed "$OUT/stage2" "$OUT/index2"
search "$OUT/stage2" "$OUT/index2" "$RAW/dev.query.txt" "$OUT/dev.trec" 1000
alone -m gazetteer.dense.evaluate -m mrr.10 -m recall.1000 "$QRELS_DEV" "$OUT/dev.trec"
