#!/bin/bash
#SBATCH --array=0-63 --requeue --gpus-per-task=1 --ntasks=1 --open-mode=append
# Embed a corpus that lies in many files by an array of jobs, then make one index of all parts:
#
#     job=$(sbatch --parsable example_scripts/embed_array.sh out 'corpus/*.jsonl.gz' --retriever_model_path facebook/contriever)
#     sbatch --dependency afterok:"$job" --array=0 example_scripts/embed_array.sh out 'corpus/*.jsonl.gz' --merge
#     python train.py ... --passages corpus/*.jsonl.gz --load_index_path out/index
#
# Tasks know nothing of each other: each takes every 64th file, leaves intact parts alone, and goes on where it was
# killed. Without Slurm: bash example_scripts/embed_array.sh out 'corpus/*.jsonl' --shard 0 --n_shards 2 ...
set -eu
output=$1 passages=$2
shift 2
# Where the shell put the files is the order of the passages: the same in every task and in training.
# shellcheck disable=SC2086
exec "${PYTHON:-python}" -m gazetteer.embed_shards --output "$output" --passages $passages "$@"
