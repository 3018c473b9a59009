# shellcheck shell=bash
# What the launch scripts share; they source it, after which the repository's root is the current folder.
#
#   DRY_RUN=1          print each command, quoted for a shell, and run none
#   SKIP_FIT_CHECK=1   do not ask first whether the run fits into the chips' memory
#   PYTHON             the Python of that question and of a SLURM job (default .venv/bin/python)
#
# A run is named as for rlhf_jax.main: --config=... --workdir=runs/NAME [--config.key=value ...]. Wherever it runs, runs/
# is storage that outlives the machine: the bucket $BUCKET, or on SLURM a shared file system.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
exec 3>&1 # where a dry run prints, inside $(...) too
PYTHON="${PYTHON:-.venv/bin/python}"

# fail SENTENCE: ends the script with status 1.
fail() {
  echo "error: $1" >&2
  exit 1
}

# require VARIABLE...: each must be set.
require() {
  local variable
  for variable in "$@"; do
    [ -n "${!variable:-}" ] || fail "$variable is not set; the head of $0 says what it is"
  done
}

case "${DRY_RUN:-}" in
  "" | 1) ;;
  *) fail "DRY_RUN is '$DRY_RUN', expected 1, or not to be set" ;;
esac

# quoted WORD...: the words as one line for a shell.
quoted() {
  local line
  printf -v line ' %q' "$@"
  echo "${line:1}"
}

# run COMMAND...: runs it, or prints it in a dry run.
run() {
  if [ "${DRY_RUN:-}" = 1 ]; then
    quoted "$@" >&3
  else
    "$@"
  fi
}

# read_run ARGUMENT...: WORKDIR, the run's folder, and JOB, that folder below runs/ as Kubernetes, SkyPilot and SLURM accept
# a name, at most 39 characters.
read_run() {
  local argument
  WORKDIR=
  for argument in "$@"; do
    case "$argument" in
      --workdir=*)
        [ -z "$WORKDIR" ] || fail "--workdir is given twice"
        WORKDIR="${argument#--workdir=}"
        ;;
    esac
  done
  [[ "$WORKDIR" == runs/?* && "$WORKDIR/" != */../* ]] ||
    fail "--workdir=runs/NAME is missing; only what is below runs/ outlives the machine"
  JOB="$(printf %s "run-${WORKDIR#runs/}" | LC_ALL=C tr '[:upper:]' '[:lower:]' | LC_ALL=C tr -c 'a-z0-9' '-' | sed 's/-*$//')"
  if [ "${#JOB}" -gt 39 ]; then
    JOB="${JOB:0:28}-$(printf %s "$WORKDIR" | cksum | cut -d ' ' -f 1)" # the end tells the runs of a sweep apart
  fi
}

# read_topology: TPU_TYPE and TPU_RUNTIME, as Cloud TPU calls the chips $TOPOLOGY and what is installed on their hosts;
# CHIPS, how many they are, and HOSTS, how many TPU VMs they hang on: four to each, but eight v5e or v6e to one.
# https://cloud.google.com/tpu/docs/runtimes, https://cloud.google.com/tpu/docs/v5e
read_topology() {
  require TOPOLOGY
  [[ "$TOPOLOGY" =~ ^(v4|v5e|v5p|v6e):[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$ ]] ||
    fail "TOPOLOGY is $TOPOLOGY; expected v4, v5e, v5p or v6e and the chips' grid, e.g. v5e:2x4"
  local shape="${TOPOLOGY#*:}"
  CHIPS=$((${shape//x/*}))
  # shellcheck disable=SC2034  # for the scripts that call this
  case "$TOPOLOGY" in # v4 and v5p are counted in cores, two a chip
    v4:*) TPU_TYPE="v4-$((2 * CHIPS))" TPU_RUNTIME=tpu-ubuntu2204-base ;;
    v5e:*) TPU_TYPE="v5litepod-$CHIPS" TPU_RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p:*) TPU_TYPE="v5p-$((2 * CHIPS))" TPU_RUNTIME=v2-alpha-tpuv5 ;;
    v6e:*) TPU_TYPE="v6e-$CHIPS" TPU_RUNTIME=v2-alpha-tpuv6e ;;
  esac
  HOSTS=$(((CHIPS + 3) / 4))
  # shellcheck disable=SC2034
  case "$TOPOLOGY" in
    v[56]e:2x4) HOSTS=1 ;;
  esac
}

# check_fits ARGUMENT...: ends the script unless every program of the run fits into the memory of $TOPOLOGY.
check_fits() {
  if [ "${SKIP_FIT_CHECK:-}" = 1 ]; then
    return
  fi
  local argument command=("$PYTHON" launch/aot_check.py "--topology=$TOPOLOGY")
  for argument in "$@"; do
    case "$argument" in
      --workdir=*) ;;
      *) command+=("$argument") ;;
    esac
  done
  run "${command[@]}" || fail "the run was not shown to fit $TOPOLOGY (above); SKIP_FIT_CHECK=1 starts it all the same"
}

# fetch: the run's folder, from the bucket.
fetch() {
  require BUCKET
  run mkdir -p "$WORKDIR"
  run gcloud storage rsync --recursive "gs://$BUCKET/${WORKDIR#runs/}" "$WORKDIR"
}
