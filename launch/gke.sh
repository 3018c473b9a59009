#!/usr/bin/env bash
# Runs on Google Kubernetes Engine, by XPK (pip install xpk; the flags are those of version 1.16).
#
#   launch/gke.sh create RUN   a cluster with one slice, if the run fits, and the bucket as a storage of it
#   launch/gke.sh image        build launch/Dockerfile from the working tree and push it
#   launch/gke.sh run RUN      hand the run over, if it fits; the cluster starts it again when it is preempted
#   launch/gke.sh tail RUN     what the program prints
#   launch/gke.sh fetch RUN    the run's folder, from the bucket
#   launch/gke.sh cancel RUN   stop the run and forget it
#   launch/gke.sh delete       give the cluster back
#
# RUN is --config=... --workdir=runs/NAME [--config.key=value ...]. Beside the variables in common.sh:
#
#   PROJECT, ZONE      where, e.g. us-west4-a
#   NAME               of the cluster
#   TOPOLOGY           the slice, e.g. v5e:2x4, for create and run
#   IMAGE              where the image is pushed, e.g. us-west4-docker.pkg.dev/PROJECT/rlhf-jax/rlhf-jax:1, for image and run
#   BUCKET             without gs://, for create, run and fetch
#   SPOT=1             spot capacity, for create
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

verb="${1:-}"
[ $# = 0 ] || shift
require PROJECT ZONE NAME
place=("--cluster=$NAME" "--project=$PROJECT" "--zone=$ZONE")
case "$verb" in
  create)
    read_topology
    require BUCKET
    read_run "$@"
    check_fits "$@"
    command=(xpk cluster create "${place[@]}" "--tpu-type=$TPU_TYPE" --num-slices=1 --enable-gcsfuse-csi-driver)
    if [ "${SPOT:-}" = 1 ]; then
      command+=(--spot)
    else
      command+=(--on-demand)
    fi
    run "${command[@]}"
    # Pods write into one bucket: none may go on with what it remembers of a folder. The size is nominal.
    run xpk storage attach runs "${place[@]}" --type=gcsfuse "--bucket=$BUCKET" --size=1024 --mount-point=/app/runs \
      --readonly=false --auto-mount=false --mount-options=metadata-cache:ttl-secs:0
    ;;
  image)
    require IMAGE
    run docker build "--tag=$IMAGE" --file=launch/Dockerfile .
    run docker push "$IMAGE"
    ;;
  run)
    require IMAGE
    read_topology
    read_run "$@"
    check_fits "$@"
    # `exec` hands XPK's SIGTERM to the program; XPK restarts after status 143 of itself, as after all above 126. Its
    # machines have four chips each, v5e:2x4 too.
    run xpk workload create "${place[@]}" "--workload=$JOB" "--tpu-type=$TPU_TYPE" "--docker-image=$IMAGE" \
      --storage=runs --max-restarts=100 "--command=exec $(
        quoted python -m rlhf_jax.main "$@" "--hosts=$(((CHIPS + 3) / 4))"
      )"
    ;;
  tail)
    read_run "$@"
    run kubectl logs --follow --tail=50 "--selector=jobset.sigs.k8s.io/jobset-name=$JOB"
    ;;
  fetch)
    read_run "$@"
    fetch
    ;;
  cancel)
    read_run "$@"
    run xpk workload delete "${place[@]}" "--workload=$JOB" --force
    ;;
  delete) run xpk cluster delete "${place[@]}" --force ;;
  *) fail "'$verb' is no verb of launch/gke.sh; expected create, image, run, tail, fetch, cancel or delete" ;;
esac
