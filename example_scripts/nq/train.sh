#!/usr/bin/env bash
# Natural Questions, all of the training data.
#
#   bash example_scripts/nq/train.sh
#
# Atlas's settings: 8 nodes of 8 GPUs; 10000 steps, 5000 for xl and xxl. Both sides of the retriever
# learn, and the index is embedded anew: every 500 steps at first, then every 2000.
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

TASK_DATA=${TASK_DATA:-nq_data}
NAME=${NAME:-$TASK_DATA-full-$SIZE}
case $SIZE in xl | xxl) STEPS=${STEPS:-5000} ;; *) STEPS=${STEPS:-10000} ;; esac

launch train.py --task qa --name "$NAME" --checkpoint_dir "$SAVE_DIR" \
    --train_data "$DATA_DIR/data/$TASK_DATA/train.jsonl" \
    --eval_data "$DATA_DIR/data/$TASK_DATA/dev.jsonl" --shuffle \
    --passages "${PASSAGES[@]}" --reader_model_type "$READER" --model_path "$PRETRAINED" \
    --train_retriever --refresh_index 0-1000:500,1000-10000:2000 \
    --gold_score_mode pdist --temperature_gold 0.01 --temperature_score 0.01 \
    --n_context 40 --retriever_n_context 40 --text_maxlength 512 --target_maxlength 16 \
    --per_gpu_batch_size 1 --precision fp32 "${SAVE_MEMORY[@]}" \
    --lr 4e-5 --lr_retriever 4e-5 --scheduler cosine --dropout 0.1 --weight_decay 0.01 \
    --warmup_steps 100 --total_steps "$STEPS" --eval_freq 500 --save_freq 5000 --log_freq 50 \
    "$@"
