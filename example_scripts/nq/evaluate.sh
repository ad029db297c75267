#!/usr/bin/env bash
# A trained model on the dev and test questions of Natural Questions.
#
#   bash example_scripts/nq/evaluate.sh
#
# By default what train_fewshot.sh left: its last checkpoint (MODEL) with its index (INDEX).
#SBATCH --nodes=4 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

TASK_DATA=${TASK_DATA:-nq_data}
TRAINED=$SAVE_DIR/$TASK_DATA-64-shot-$SIZE
MODEL=${MODEL:-$TRAINED/checkpoint/latest}
INDEX=${INDEX:-$TRAINED/saved_index}

launch evaluate.py --task qa --name "${NAME:-$TASK_DATA-$SIZE-evaluation}" \
    --checkpoint_dir "$SAVE_DIR" --model_path "$MODEL" --load_index_path "$INDEX" \
    --eval_data "$DATA_DIR/data/$TASK_DATA/dev.jsonl" "$DATA_DIR/data/$TASK_DATA/test.jsonl" \
    --reader_model_type "$READER" --n_context 40 --retriever_n_context 40 \
    --text_maxlength 512 --target_maxlength 16 --generation_max_length 32 \
    --per_gpu_batch_size 1 --precision fp32 --write_results "$@"
