#!/usr/bin/env bash
# What launch/slurm.sh submits: the program, and the job back in the queue when SIGTERM has ended it.
set -euo pipefail
# shellcheck source=launch/common.sh
source launch/common.sh # SLURM runs a copy of this file, from the folder where it was submitted

trap : TERM # or the signal would end this script before the program has saved
# On several nodes JAX would else give a process only the GPU of its number on the node.
JAX_LOCAL_DEVICE_IDS="$(seq -s , 0 $((${SLURM_GPUS_ON_NODE:-1} - 1)))"
export JAX_LOCAL_DEVICE_IDS
status=0
run srun "$PYTHON" -m rlhf_jax.main "$@" "--hosts=${SLURM_JOB_NUM_NODES:-1}" || status=$?
if [ "$status" = 143 ]; then
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
