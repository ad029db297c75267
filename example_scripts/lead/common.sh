# shellcheck shell=bash
# What the stages of LEAD share; they source this file from the repository root.
#
# Beside what launch.sh reads:
#   DATA_DIR   what get_data.sh filled: DATA_DIR/lead/DATASET holds corpus.tsv, train.jsonl, ...
#   SAVE_DIR   a folder for each stage: SAVE_DIR/DATASET/STAGE/checkpoint/step-N/retriever
#   STEPS      updates, instead of LEAD's number for the stage
#   SAVE_STEPS updates between two checkpoints
#   MODEL_6, MODEL_12, MODEL_24, STUDENT_12   what stages start from: hub names or folders
#
# Words after a script's own arguments go to the program it starts: of a flag given twice the last
# counts.

DATA_DIR=${DATA_DIR:-lead_data}
source example_scripts/launch.sh

MODEL_6=${MODEL_6:-distilbert-base-uncased}
MODEL_12=${MODEL_12:-Luyu/co-condenser-marco}
MODEL_24=${MODEL_24:-nghuyong/ernie-2.0-large-en}
TEMPLATE=${TEMPLATE:-<title>[SEP]<text>}

# Arguments of the stages, in order.
TRAINING="DATASET MASTER_PORT MAX_DOC_LENGTH MAX_QUERY_LENGTH TRAIN_BATCH_SIZE NUM_NEGATIVES"
# shellcheck disable=SC2034 # read by the scripts
DISTILLATION="DATASET MASTER_PORT DISTILL_LAYER_NUM ${TRAINING#* * } WARM_RATIO"

# require NAMES WORD ...: leave with one line unless there is a word for every name.
require() {
    local names
    read -ra names <<< "$1"
    if (($# - 1 < ${#names[@]})); then
        echo "$(basename "$0"): expected $1" >&2
        exit 2
    fi
}

# place DATASET MASTER_PORT: where data and results are, and where workers meet.
place() {
    DATA=$DATA_DIR/lead/$1
    RUNS=$SAVE_DIR/$1
    # shellcheck disable=SC2034 # read by launch.sh
    RENDEZVOUS=(--master_addr 127.0.0.1 --master_port "$2")
}

# train STAGE UPDATES ACCUMULATION WORD ...: train.py with LEAD's settings.
train() {
    local stage=$1 updates=${STEPS:-$2} accumulation=$3
    launch train.py --task dense --name "$stage" --checkpoint_dir "$RUNS" \
        --passages "$DATA/corpus.tsv" --doc_template "$TEMPLATE" --query_template "<text>" \
        --p_max_len "$MAX_DOC_LENGTH" --q_max_len "$MAX_QUERY_LENGTH" --retriever_pooling cls \
        --per_gpu_batch_size "$TRAIN_BATCH_SIZE" --train_n_passages $((NUM_NEGATIVES + 1)) \
        --positive_passage_no_shuffle --negatives_x_device --shuffle --seed 888 \
        --total_steps $((updates * accumulation)) --accumulation_steps "$accumulation" \
        --save_freq $((${SAVE_STEPS:-1000} * accumulation)) --log_freq 10 \
        --scheduler linear --warmup_ratio 0.1 --weight_decay 0 --epsilon 1e-8 --clip 2.0 \
        "${@:4}"
}

# distill STAGE UPDATES ACCUMULATION WORD ...: LEAD itself; teacher and student learn together.
distill() {
    train "${@:1:3}" --train_data "$DATA/train-hard.jsonl" --train_teacher \
        --distill_layer_num "$DISTILL_LAYER_NUM" --layer_selection random \
        --layer_resample_steps $((10 * $3)) --layer_score_reweight --layer_temperature 10 \
        --warmup_ratio "$WARM_RATIO" "${@:4}"
}

# model_of PATH: the last model of a stage, or PATH itself where it is no stage's folder.
model_of() {
    if [[ -d $1/checkpoint/latest/retriever ]]; then
        echo "$1/checkpoint/latest/retriever"
    else
        echo "$1"
    fi
}

# run WORD ...: a command for one process; with LAUNCHER=print it is only shown.
run() {
    if [[ $LAUNCHER == print ]]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

# search MODEL QUERIES INDEX RUN DEPTH: embed the corpus, search it.
search() {
    launch -m gazetteer.dense.build_index --output_dir "$3" --model_name_or_path "$1" \
        --corpus_path "$DATA/corpus.tsv" --doc_column_names id,title,text \
        --doc_template "$TEMPLATE" --p_max_len "$MAX_DOC_LENGTH" --per_device_eval_batch_size 256
    launch -m gazetteer.dense.retrieve --output_dir "$3" --model_name_or_path "$1" \
        --query_path "$2" --query_column_names id,text --query_template "<text>" \
        --q_max_len "$MAX_QUERY_LENGTH" --trec_save_path "$4" --retrieve_depth "$5" \
        --per_device_eval_batch_size 256
}

# evaluate_steps MODEL_PATH FIRST EVERY LAST: MRR@10, MAP and recall of a stage's checkpoints.
evaluate_steps() {
    local step
    for ((step = $2; step <= $4; step += $3)); do
        search "$1/checkpoint/step-$step/retriever" "$DATA/dev.queries.tsv" \
            "$1/index/step-$step" "$1/runs/dev-step-$step.trec" 1000
        run python -m gazetteer.dense.evaluate -m mrr.10 -m map -m recall.1000 \
            "$DATA/dev.qrels.tsv" "$1/runs/dev-step-$step.trec"
    done
}
