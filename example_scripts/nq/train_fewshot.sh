#!/usr/bin/env bash
# Natural Questions from 64 examples. See example_scripts/README.md for data and launchers.
#
#   bash example_scripts/nq/train_fewshot.sh
#
# Atlas's settings: 30 steps on 4 nodes of 8 GPUs; only the query side of the retriever learns, so
# the index is embedded once. For TriviaQA, or 64 other examples: TASK_DATA=triviaqa_data.
#SBATCH --nodes=4 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

TASK_DATA=${TASK_DATA:-nq_data}
STEPS=${STEPS:-30}
NAME=${NAME:-$TASK_DATA-64-shot-$SIZE}

launch train.py --task qa --name "$NAME" --checkpoint_dir "$SAVE_DIR" \
    --train_data "$DATA_DIR/data/$TASK_DATA/train.64-shot.jsonl" \
    --eval_data "$DATA_DIR/data/$TASK_DATA/dev.jsonl" --shuffle \
    --passages "${PASSAGES[@]}" --save_index_path "$SAVE_DIR/$NAME/saved_index" \
    --reader_model_type "$READER" --model_path "$PRETRAINED" \
    --train_retriever --query_side_retriever_training --refresh_index -1 \
    --gold_score_mode pdist --temperature_gold 0.01 --temperature_score 0.01 \
    --n_context 40 --retriever_n_context 40 --text_maxlength 512 --target_maxlength 16 \
    --per_gpu_batch_size 2 --precision fp32 "${SAVE_MEMORY[@]}" \
    --lr 4e-5 --lr_retriever 4e-5 --scheduler linear --dropout 0.1 --weight_decay 0.01 \
    --warmup_steps 5 --total_steps "$STEPS" --eval_freq "$STEPS" --save_freq "$STEPS" --log_freq 4 \
    --write_results "$@"
