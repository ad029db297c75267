#!/usr/bin/env bash
# Natural Questions with compressed passages: eight vectors of each, by a quarter of the reader.
#
#   bash example_scripts/nq/train_compressed.sh
#
# Settings of train.sh, and of OSCAR for the compressor; see docs/compression.md.
#SBATCH --nodes=8 --ntasks-per-node=8 --gpus-per-node=8
set -euo pipefail

NAME=${NAME:-nq_data-compressed-${SIZE:-large}} bash example_scripts/nq/train.sh \
    --compressor n_layers --num_memory_tokens 8 --compression_rate 16 --lr_compressor 5e-5 \
    --distill_kl_weight 1.0 --rerank_target reader --rerank_weight 0.05 "$@"
