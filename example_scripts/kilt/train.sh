#!/usr/bin/env bash
# A data set of KILT: KILT names it, such as hotpotqa, nq, triviaqa-unfiltered, trex, structured_zeroshot, wow, fever.
#
#   KILT=hotpotqa bash example_scripts/kilt/train.sh
#
# Needs the files {KILT}-{train,dev}-kilt.jsonl of https://github.com/facebookresearch/KILT in
# $DATA_DIR/data/kilt_data. Settings are those of Natural Questions; the release of Atlas has no
# script for KILT. Test sets without answers: evaluate.py --write_results.
#SBATCH --nodes=4 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

KILT=${KILT:-nq}
FOLDER=$DATA_DIR/data/kilt_data
TRAIN=$FOLDER/$KILT-train-kilt.jsonl
EVAL=$FOLDER/$KILT-dev-kilt.jsonl
NAME=${NAME:-kilt-$KILT-$SIZE}
STEPS=${STEPS:-30}

launch train.py --task kilt --name "$NAME" --checkpoint_dir "$SAVE_DIR" \
    --train_data "$TRAIN" --eval_data "$EVAL" --shuffle \
    --passages "${PASSAGES[@]}" --reader_model_type "$READER" --model_path "$PRETRAINED" \
    --train_retriever --query_side_retriever_training --refresh_index -1 \
    --gold_score_mode pdist --temperature_gold 0.01 --temperature_score 0.01 \
    --n_context 40 --retriever_n_context 40 --text_maxlength 512 --target_maxlength 16 \
    --per_gpu_batch_size 2 --precision fp32 "${SAVE_MEMORY[@]}" \
    --lr 4e-5 --lr_retriever 4e-5 --scheduler linear --dropout 0.1 --weight_decay 0.01 \
    --warmup_steps 5 --total_steps "$STEPS" --eval_freq "$STEPS" --save_freq "$STEPS" --log_freq 4 \
    --write_results "$@"
