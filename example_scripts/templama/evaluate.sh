#!/usr/bin/env bash
# TempLAMA: the model trained on YEAR asked about QUESTIONS_YEAR with the passages of INDEX_YEAR.
#
#   YEAR=2017 QUESTIONS_YEAR=2020 INDEX_YEAR=2020 bash example_scripts/templama/evaluate.sh
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail
source example_scripts/launch.sh

YEAR=${YEAR:-2017}
QUESTIONS_YEAR=${QUESTIONS_YEAR:-2020}
INDEX_YEAR=${INDEX_YEAR:-2020}
WIKI=$DATA_DIR/corpora/wiki/enwiki-dec$INDEX_YEAR
NAME=${NAME:-templama-$YEAR-asked-$QUESTIONS_YEAR-index-$INDEX_YEAR-$SIZE}

launch evaluate.py --task qa --qa_prompt_format "{question}" --name "$NAME" \
    --checkpoint_dir "$SAVE_DIR" --reader_model_type "$READER" \
    --model_path "${MODEL:-$SAVE_DIR/templama-$YEAR-$SIZE/checkpoint/latest}" \
    --eval_data "$DATA_DIR/data/templama_data/temp_lama.test.$QUESTIONS_YEAR.jsonl" \
    --passages "$WIKI/text-list-100-sec.jsonl" "$WIKI/infobox.jsonl" \
    --n_context 20 --retriever_n_context 20 --text_maxlength 512 --target_maxlength 16 \
    --generation_max_length 32 --per_gpu_batch_size 1 --precision fp32 --write_results "$@"
