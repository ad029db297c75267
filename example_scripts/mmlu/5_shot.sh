#!/usr/bin/env bash
# MMLU, one model per subject from its five questions: 57 runs of 16 steps.
#
#   bash example_scripts/mmlu/5_shot.sh
#   python -m gazetteer.evaluation.mmlu_summary atlas_data/experiments/mmlu-5-shot-large-*/*.test-step-16.jsonl
#
# SUBJECTS="anatomy virology" runs those alone. The first run embeds the index, and the others load
# it, as only the query side of the retriever learns.
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh
source example_scripts/mmlu/common.sh

FOLDER=$MMLU/5-shot
if [[ -z ${SUBJECTS:-} ]]; then
    SUBJECTS=
    for file in "$FOLDER"/individual_train/*.5-shot-train.jsonl; do
        if [[ ! -e $file ]]; then
            echo "5_shot.sh: no subjects in $FOLDER; see preprocessing/prepare_mmlu.py" >&2
            exit 2
        fi
        SUBJECTS+=" $(basename "$file" .5-shot-train.jsonl)"
    done
fi
NAME=${NAME:-mmlu-5-shot-$SIZE}
INDEX=$SAVE_DIR/$NAME-index
KEEP=(--save_index_path "$INDEX")

for subject in $SUBJECTS; do
    launch train.py "${READING[@]}" "${TRAINING[@]}" --name "$NAME-$subject" \
        --train_data "$FOLDER/individual_train/$subject.5-shot-train.jsonl" \
        --eval_data "$FOLDER/individual_valid/$subject.val.jsonl" \
        "$FOLDER/individual_test/$subject.test.jsonl" \
        --query_side_retriever_training --refresh_index -1 "${KEEP[@]}" \
        --warmup_steps 4 --total_steps 16 --eval_freq 16 --save_freq 16 --log_freq 4 "$@"
    KEEP=(--load_index_path "$INDEX")
done
