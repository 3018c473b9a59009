#!/usr/bin/env bash
# Submits a run to SLURM, one process on each node with all of its GPUs. It is queued again when it is preempted or its
# time is up.
#
#   launch/slurm.sh --config=... --workdir=runs/NAME [--config.key=value ...]
#
# The repository is on a file system that the nodes share. sbatch reads SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT
# and its other variables by itself. Beside the variables in common.sh:
#
#   GPUS    of a node (default 1)
#   NODES   (default 1)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

read_run "$@"
run mkdir -p runs
# singleton: the same run submitted twice waits for itself. The signal goes to the program, two minutes before the end.
run sbatch "--job-name=$JOB" "--nodes=${NODES:-1}" --ntasks-per-node=1 "--gpus-per-node=${GPUS:-1}" --requeue \
  --dependency=singleton --signal=TERM@120 --open-mode=append "--output=runs/$JOB.log" \
  launch/slurm_job.sh "$@"
