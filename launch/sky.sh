#!/usr/bin/env bash
# Hands a run over to SkyPilot, which finds spot capacity and starts it again when that is taken away.
#
#   launch/sky.sh --config=... --workdir=runs/NAME [--config.key=value ...]
#
# `sky jobs logs` and `sky jobs cancel` do the rest. Beside the variables in common.sh:
#
#   BUCKET      without gs://
#   TOPOLOGY    the chips that sky.yaml asks for, e.g. v5e:2x4
#   GPU         instead of TOPOLOGY, e.g. H100:1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

require BUCKET
read_run "$@"
HOSTS=1
if [ -z "${GPU:-}" ]; then
  read_topology
  grep -q "^  accelerators: tpu-$TPU_TYPE\$" launch/sky.yaml ||
    fail "launch/sky.yaml does not ask for tpu-$TPU_TYPE, which is $TOPOLOGY; change its accelerators and runtime_version"
  check_fits "$@"
fi
command=(sky jobs launch --yes --detach-run "--name=$JOB" "--env=BUCKET=$BUCKET")
command+=("--env=ARGUMENTS=$(quoted "$@" "--hosts=$HOSTS")")
if [ -n "${GPU:-}" ]; then
  command+=("--gpus=$GPU")
fi
run "${command[@]}" launch/sky.yaml
