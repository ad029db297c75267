#!/bin/bash
#SBATCH --requeue --open-mode=append --signal=USR2@120
# A job script that goes on after pre-emptions, time limits, lost machines and killed workers:
#
#     sbatch --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 example_scripts/job.sh train.py --task qa ...
#
# The run saves when it is asked to stop, and the same command goes on from there. What is put back into the
# queue, at most RESTARTS times: 75 (stopped and saved, or another worker was lost), 140 and 143 (asked to stop
# while it started; 143 also by the late order that ended its last start on a lost machine) and 137 (a worker was
# killed).
# The workers end each other; srun's --kill-on-bad-exit would hide their exit codes.
set -u
RESTARTS=${RESTARTS:-100}
# Since Slurm 22.05 a step does not inherit the cores of each process.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
srun "${PYTHON:-python}" "$@"
code=$?
echo "job.sh: start ${SLURM_RESTART_COUNT:-0} left with $code"
case $code in
    75 | 137 | 140 | 143)
        if ((${SLURM_RESTART_COUNT:-0} < RESTARTS)); then scontrol requeue "$SLURM_JOB_ID"; fi ;;
esac
exit "$code"
