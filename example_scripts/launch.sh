# shellcheck shell=bash
# How the example scripts start their programs; they source this file from the repository root.
#
# One switch, LAUNCHER:
#   torchrun   WORKERS processes on this machine (default outside Slurm)
#   srun       one process per task of the allocation (default inside Slurm); from the repository root
#                  sbatch --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 example_scripts/nq/train_fewshot.sh
#   submitit   hand the program to Slurm, NODES nodes with WORKERS processes each, and wait for it
#   python     one process
#   print      show the commands, quoted for the shell, and run nothing
#
# And where things are:
#   DATA_DIR   what preprocessing/ was given as --output_directory
#   SAVE_DIR   checkpoints, logs and results
#   SIZE       base, large, xl or xxl
#
# Words after a script's name go to the program it starts, after the script's own: of a flag given
# twice the last counts.

if [[ -n ${SLURM_JOB_ID:-} ]]; then LAUNCHER=${LAUNCHER:-srun}; fi
LAUNCHER=${LAUNCHER:-torchrun}
WORKERS=${WORKERS:-8}
NODES=${NODES:-4}
DATA_DIR=${DATA_DIR:-atlas_data}
SAVE_DIR=${SAVE_DIR:-$DATA_DIR/experiments}
SIZE=${SIZE:-large}
RENDEZVOUS=(--standalone)

# What scripts read; some of them read only a part.
# shellcheck disable=SC2034
{
    READER=google/t5-$SIZE-lm-adapt
    PRETRAINED=$DATA_DIR/models/atlas/$SIZE
    WIKI=$DATA_DIR/corpora/wiki/enwiki-dec2018
    PASSAGES=("$WIKI/text-list-100-sec.jsonl" "$WIKI/infobox.jsonl")
    # Fits large models: sharded optimiser and gradients, activations computed again.
    SAVE_MEMORY=(--shard_optim --shard_grads --use_gradient_checkpoint_reader
        --use_gradient_checkpoint_retriever)
}

# submit PROGRAM [WORD ...]: train.py and evaluate.py submit themselves, and go on after an interruption.
submit() {
    case $1 in
        train.py | evaluate.py) python "$1" --launcher submitit --slurm_wait --slurm_nodes "$NODES" \
                                    --slurm_gpus_per_node "$WORKERS" "${@:2}" ;;
        *) python example_scripts/submit.py --nodes "$NODES" --workers "$WORKERS" -- "$@" ;;
    esac
}

# launch PROGRAM [WORD ...]: start train.py or evaluate.py.
launch() {
    case $LAUNCHER in
        torchrun) torchrun "${RENDEZVOUS[@]}" --nproc_per_node "$WORKERS" "$@" ;;
        srun) srun --kill-on-bad-exit=1 python "$@" ;;
        submitit) submit "$@" ;;
        python) python "$@" ;;
        print) printf '%q ' "$@" && echo ;;
        *) echo "launch.sh: LAUNCHER=$LAUNCHER, expected torchrun, srun, submitit, python or print" >&2
           return 2 ;;
    esac
}
