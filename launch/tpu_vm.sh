#!/usr/bin/env bash
# Runs on a TPU VM, by gcloud: from a place in the queue to the files that a run leaves.
#
#   launch/tpu_vm.sh create RUN   ask for the chips, if the run fits
#   launch/tpu_vm.sh setup        wait for them; then the last commit, its environment and the bucket, on every worker
#   launch/tpu_vm.sh run RUN      the program on every worker. A machine that is not there is created and set up first,
#                                 a preempted one is made anew, until the program has ended
#   launch/tpu_vm.sh tail         what the program prints on worker 0
#   launch/tpu_vm.sh stop         let the program save and end; Ctrl-C ends only the script that waits for it
#   launch/tpu_vm.sh fetch RUN    the run's folder, from the bucket
#   launch/tpu_vm.sh delete       give the chips back
#
# RUN is --config=... --workdir=runs/NAME [--config.key=value ...]. `run` must stay alive to see a preemption: start it
# where it can, in tmux on a small VM for instance. Beside the variables in common.sh:
#
#   PROJECT, ZONE      where, e.g. us-west4-a
#   NAME               of the machine
#   TOPOLOGY           its chips, e.g. v5e:2x4 (for create and run)
#   BUCKET             without gs://, for setup, run and fetch
#   SPOT=1             spot capacity: cheaper, may be taken away
#   POLL_SECONDS       between two looks at the queue (default 30)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PREEMPTED=143 # the program's status after SIGTERM
CONNECTION_LOST=255

# state: of the request for chips, as Cloud TPU calls it; nothing if there is no request.
state() {
  run gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" "--format=value(state.state)" 2>/dev/null || true
}

ask_for_chips() {
  local command=(gcloud compute tpus queued-resources create "$NAME" "${place[@]}" "--node-id=$NAME"
    "--accelerator-type=$TPU_TYPE" "--runtime-version=$TPU_RUNTIME" --scopes=https://www.googleapis.com/auth/cloud-platform)
  if [ "${SPOT:-}" = 1 ]; then
    command+=(--spot)
  fi
  run "${command[@]}"
}

give_back() {
  run gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force --quiet
}

# wait_for_chips: until the request is granted; status 1 if it will not be.
wait_for_chips() {
  local now
  while true; do
    now="$(state)"
    if [ "$now" = ACTIVE ] || [ "${DRY_RUN:-}" = 1 ]; then
      return
    fi
    case "$now" in
      '' | FAILED | DELETING | SUSPEND*)
        echo "the request for $NAME is ${now:-not there}; gcloud compute tpus queued-resources describe says more" >&2
        return 1
        ;;
    esac
    echo "the request for $NAME is $now" >&2
    sleep "${POLL_SECONDS:-30}"
  done
}

# on_workers WHICH COMMAND: a line of shell on worker WHICH, or on all.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" "--worker=$1" "--command=$2"
}

# pack: the code, once; a run that goes on on another machine goes on with it, whatever was committed meanwhile.
pack() {
  run mkdir -p build
  run git archive --format=tar.gz "--output=build/$NAME.tar.gz" HEAD
}

set_up() {
  wait_for_chips &&
    run gcloud compute tpus tpu-vm scp "build/$NAME.tar.gz" "$NAME:rlhf_jax.tar.gz" "${place[@]}" --worker=all &&
    on_workers all "mkdir -p rlhf_jax && tar -xzf rlhf_jax.tar.gz -C rlhf_jax && $(
      quoted bash rlhf_jax/launch/machine.sh "$BUCKET"
    )"
}

# provide: a machine that is set up.
provide() {
  case "$(state)" in
    ACTIVE) return ;;
    '') ask_for_chips && set_up ;;
    FAILED | SUSPEND*) give_back && ask_for_chips && set_up ;;
    *) set_up ;;
  esac
}

# run_until_done ARGUMENT...: the program, again after each preemption.
run_until_done() {
  local program status now
  # gcloud starts the command again when the connection breaks, but the program lives on: the second one waits at the lock
  # for the first, and finds the run as that left it. A machine that goes down sends SIGTERM to all processes: tee must
  # survive it, or what the program prints while it saves would end it.
  program="cd rlhf_jax && set -o pipefail && $(
    quoted flock run.lock .venv/bin/python -m rlhf_jax.main "$@" "--hosts=$HOSTS"
  ) 2>&1 | (trap '' TERM && exec tee -a -p run.log)"
  trap 'exit 130' INT # else a Ctrl-C that gcloud answers with a status of its own would start it again
  while true; do
    status=0
    { provide && on_workers all "$program"; } || status=$?
    if [ "$status" = 0 ]; then
      return
    fi
    sleep "${POLL_SECONDS:-30}" # the queue takes a while to see that a machine is gone
    now="$(state)"
    case "$status $now" in
      "$PREEMPTED "* | "$CONNECTION_LOST "* | *" SUSPEND"*)
        echo "status $status, and $NAME is ${now:-not there}: starting again" >&2
        ;;
      *) fail "status $status, and $NAME is ${now:-not there}: not a preemption; what was printed before says why" ;;
    esac
  done
}

verb="${1:-}"
[ $# = 0 ] || shift
require PROJECT ZONE NAME
place=("--project=$PROJECT" "--zone=$ZONE")
case "$verb" in
  create)
    read_topology
    read_run "$@"
    check_fits "$@"
    ask_for_chips
    ;;
  setup)
    require BUCKET
    pack
    set_up
    ;;
  run)
    require BUCKET
    read_topology
    read_run "$@"
    check_fits "$@"
    pack
    run_until_done "$@"
    ;;
  tail) on_workers 0 "tail -n 50 -F rlhf_jax/run.log" ;;
  stop) on_workers all "pkill -INT -f '^[.]venv/bin/python -m rlhf_jax.main'" ;;
  fetch)
    read_run "$@"
    fetch
    ;;
  delete) give_back ;;
  *) fail "'$verb' is no verb of launch/tpu_vm.sh; expected create, setup, run, tail, stop, fetch or delete" ;;
esac
