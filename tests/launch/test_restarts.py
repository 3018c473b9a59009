"""What becomes of a run when its machine is taken away, it fails or it is told to stop."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.launch.machine import PROGRAM, RUN, TPU, Machine

# The cloud: a request is granted at the second look, and `ssh` runs its command in a folder that is the worker's home.
CLOUD = """
cd "$CLOUD"
case "$*" in
  *"queued-resources create"*) echo PROVISIONING >state ;;
  *"queued-resources delete"*) rm -r state home ;;
  *"queued-resources describe"*)
    cat state || exit 1
    if grep -q PROVISIONING state; then echo ACTIVE >state; mkdir home; fi
    ;;
  *"tpu-vm scp"*) cp "$MACHINE/build/chips.tar.gz" home/rlhf_jax.tar.gz ;;
  *"tpu-vm ssh"*)
    for last; do :; done
    cd home && bash -c "${last#--command=}"
    ;;
esac
"""
GIT = """tar -czf build/chips.tar.gz launch"""
MAKE = """mkdir -p .venv/bin && ln -sf "$(command -v program)" .venv/bin/python"""
# The program: the next line of `fates` is its status and what becomes of the machine meanwhile.
PROGRAM_ENDS = """
[ "$1 $2" = "-m rlhf_jax.main" ] || exit 0
echo "step 1"
read -r status state <"$CLOUD/fates"
tail -n +2 "$CLOUD/fates" >"$CLOUD/rest" && mv "$CLOUD/rest" "$CLOUD/fates"
echo "$state" >"$CLOUD/state"
exit "$status"
"""


@pytest.fixture
def cloud(machine: Machine, linux: None) -> Machine:
    folder = machine.folder / "cloud"
    folder.mkdir()
    machine.variables |= {**TPU, "CLOUD": str(folder), "MACHINE": str(machine.folder), "SKIP_FIT_CHECK": "1"}
    for name, script in {"gcloud": CLOUD, "git": GIT, "make": MAKE, "program": PROGRAM_ENDS}.items():
        machine.provide(name, script)
    for name in ("uv", "curl", "sudo", "gcsfuse"):
        machine.provide(name)
    machine.provide("mountpoint", "exit 1")
    return machine


def fates(cloud: Machine, *lines: str) -> None:
    (cloud.folder / "cloud" / "fates").write_text("".join(f"{line}\n" for line in lines))


def verbs(cloud: Machine) -> list[str]:
    """What was asked of the cloud and of the program, without the looks at the queue."""
    calls = [call for call in cloud.calls if call[0] == "gcloud" or call[1:3] == ["-m", "rlhf_jax.main"]]
    short = ["program" if call[0] != "gcloud" else " ".join(call[3:5]) for call in calls]
    return [verb for verb in short if verb != "queued-resources describe"]


SET_UP = ["queued-resources create", "tpu-vm scp", "tpu-vm ssh"]
TRY = ["tpu-vm ssh", "program"]


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def test_a_preempted_machine_is_made_anew_until_the_program_is_done(cloud: Machine) -> None:
    fates(cloud, "143 SUSPENDED", "143 SUSPENDING", "0 ACTIVE")
    result = cloud.run("launch/tpu_vm.sh", "run", *RUN)
    assert result.returncode == 0, result.stderr
    again = ["queued-resources delete", *SET_UP, *TRY]
    assert verbs(cloud) == [*SET_UP, *TRY, *again, *again]
    assert result.stdout.count("step 1") == 3
    assert [call[0] for call in cloud.calls].count("git") == 1, "the same code all along"
    assert [call[1:] for call in cloud.calls if call[1:3] == PROGRAM[:2]] == [PROGRAM] * 3
    mounted = [call for call in cloud.calls if call[0] == "gcsfuse"]
    assert mounted == [["gcsfuse", "--metadata-cache-ttl-secs=0", "results", "runs"]] * 3


def test_a_program_can_print_and_save_while_all_processes_of_the_machine_are_ended(
    machine: Machine, linux: None
) -> None:
    saves = "trap 'sleep 0.2; echo saving >&2; touch saved; exit 143' TERM; touch started"
    machine.provide("python", f"{saves}; for _ in {{1..6000}}; do sleep 0.01; done")
    command = machine.dry_run("launch/tpu_vm.sh", "run", *RUN, **TPU)[-1][-1].removeprefix("--command=")
    home = machine.folder / "home" / "rlhf_jax"
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "python").symlink_to(machine.folder / "bin" / "python")
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=home.parent, env=machine.variables, start_new_session=True, stdout=subprocess.PIPE
    )
    wait_until((home / "started").exists)
    os.killpg(process.pid, signal.SIGTERM)
    process.stdout.close()  # the connection goes too
    wait_until((home / "saved").exists)
    wait_until(lambda: (home / "run.log").read_text().endswith("saving\n"))
    assert process.wait(timeout=60) == -signal.SIGTERM


def test_a_program_that_was_only_told_to_stop_goes_on_on_the_same_machine(cloud: Machine) -> None:
    fates(cloud, "143 ACTIVE", "255 ACTIVE", "0 ACTIVE")
    result = cloud.run("launch/tpu_vm.sh", "run", *RUN)
    assert result.returncode == 0, result.stderr
    assert verbs(cloud) == [*SET_UP, *TRY, *TRY, *TRY]


@pytest.mark.parametrize("fate", ["1 ACTIVE", "130 ACTIVE", "1 FAILED"])
def test_a_program_that_failed_is_not_started_again(cloud: Machine, fate: str) -> None:
    fates(cloud, fate)
    result = cloud.run("launch/tpu_vm.sh", "run", *RUN)
    status, state = fate.split()
    assert result.returncode == 1
    assert result.stderr.endswith(
        f"error: status {status}, and chips is {state}: not a preemption; what was printed before says why\n"
    )
    assert verbs(cloud) == [*SET_UP, *TRY]
    log = cloud.folder / "cloud" / "home" / "rlhf_jax" / "run.log"
    assert log.read_text() == "step 1\n"


# The machine itself


def test_a_new_machine_gets_what_it_lacks(cloud: Machine) -> None:
    result = cloud.run("launch/machine.sh", "my results", DRY_RUN="1")
    printed = [shlex.split(line) for line in result.stdout.splitlines()]
    assert cloud.calls == [["mountpoint", "--quiet", "runs"]], "a look, which changes nothing"
    assert printed[0] == ["make", "setup"]
    assert printed[-2:] == [["mkdir", "-p", "runs"], ["gcsfuse", "--metadata-cache-ttl-secs=0", "my results", "runs"]]


# SLURM


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (143, True)])
def test_a_job_is_queued_again_when_sigterm_ended_the_program(machine: Machine, status: int, requeued: bool) -> None:
    machine.provide("srun", f"exit {status}")
    result = machine.run("launch/slurm_job.sh", *RUN, SLURM_JOB_ID="7")
    assert result.returncode == status
    program = ["srun", ".venv/bin/python", *PROGRAM]
    assert machine.calls == [program, *([["scontrol", "requeue", "7"]] if requeued else [])]


def test_a_job_outlives_the_signal_until_the_program_has_saved(machine: Machine) -> None:
    started, saved = machine.folder / "started", machine.folder / "saved"
    machine.provide("srun", f"touch {started}; for _ in {{1..6000}}; do [ -e {saved} ] && exit 143; sleep 0.01; done")
    command = ["launch/slurm_job.sh", *RUN]
    job = subprocess.Popen(command, cwd=machine.folder, env={**machine.variables, "SLURM_JOB_ID": "7"})
    wait_until(started.exists)
    job.terminate()
    saved.touch()
    assert job.wait(timeout=60) == 143
    assert machine.calls[-1] == ["scontrol", "requeue", "7"]
