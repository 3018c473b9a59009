#!/usr/bin/env bash
# Makes a cloud machine ready for the program: its environment, with JAX for the TPU or GPU that is there, and the bucket
# as runs/. tpu_vm.sh and sky.yaml call it on the machine; again, it changes nothing that is as it should be.
#
#   launch/machine.sh BUCKET
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

GCSFUSE=3.11.1

[ $# = 1 ] || fail "expected launch/machine.sh BUCKET"

# install PACKAGE: waits for the updates that a new machine may be busy with.
install() {
  run sudo apt-get install --yes -o DPkg::Lock::Timeout=600 "$1"
}

# Where the machine's Python is older than the program needs, make finds a newer one with uv.
export PATH="$HOME/.local/bin:$PATH"
if ! command -v uv >/dev/null; then
  run python3 -m pip install --quiet --user uv
fi
command -v make >/dev/null || install make
run make setup
extra=tpu
if command -v nvidia-smi >/dev/null; then
  extra=cuda
fi
run .venv/bin/python -m pip install --quiet -c constraints.txt -e ".[$extra]"

if ! command -v gcsfuse >/dev/null; then
  package="gcsfuse_${GCSFUSE}_amd64.deb"
  run curl --fail --silent --show-error --location --output "/tmp/$package" \
    "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$GCSFUSE/$package"
  install "/tmp/$package"
fi
if ! mountpoint --quiet runs; then
  run mkdir -p runs
  # Hosts write into one bucket: none may go on with what it remembers of a folder.
  run gcsfuse --metadata-cache-ttl-secs=0 "$1" runs
fi
