#!/usr/bin/env bash
# What the retriever alone finds for Natural Questions. No reader is loaded; the index is kept.
#
#   bash example_scripts/nq/retrieve_only.sh
#SBATCH --nodes=4 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

TASK_DATA=${TASK_DATA:-nq_data}
NAME=${NAME:-$TASK_DATA-$SIZE-retrieval}

launch evaluate.py --task qa --name "$NAME" --checkpoint_dir "$SAVE_DIR" \
    --model_path "$PRETRAINED" --reader_model_type "$READER" --retrieve_only \
    --eval_data "$DATA_DIR/data/$TASK_DATA/dev.jsonl" "$DATA_DIR/data/$TASK_DATA/test.jsonl" \
    --passages "${PASSAGES[@]}" --save_index_path "$SAVE_DIR/$NAME/saved_index" \
    --n_context 40 --text_maxlength 512 --per_gpu_batch_size 1 --precision fp32 \
    --write_results "$@"
