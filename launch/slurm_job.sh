#!/usr/bin/env bash
# What launch/slurm.sh submits: the program, and the job back in the queue when SIGTERM has ended it.
set -euo pipefail
# shellcheck source=launch/common.sh
source launch/common.sh # SLURM runs a copy of this file, from the folder where it was submitted

trap : TERM # or the signal would end this script before the program has saved
status=0
run srun "$PYTHON" -m rlhf_jax.main "$@" || status=$?
if [ "$status" = 143 ]; then
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
