"""The launch scripts: what they would run, word by word, and what they do when what they run fails."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.launch.machine import ROOT, Machine

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
RUN = ["--config=configs/ppo.py:runs/my study", "--workdir=runs/ppo/one", "--config.title=it's $HOME; two  spaces"]
PROGRAM = ["-m", "rlhf_jax.main", *RUN]
TPU = {"PROJECT": "p", "ZONE": "us-west4-a", "NAME": "chips", "TOPOLOGY": "v5e:2x4", "BUCKET": "results"}
PLACE = ["--project=p", "--zone=us-west4-a"]
GKE = {**TPU, "IMAGE": "registry/image:1"}
CLUSTER = ["--cluster=chips", *PLACE]
FIT_CHECK = [".venv/bin/python", "launch/aot_check.py", "--topology=v5e:2x4", RUN[0], RUN[2]]
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]
NODE = ["gcloud", "compute", "tpus", "tpu-vm"]
CREATE = [
    *[*QUEUE, "create", "chips", *PLACE, "--node-id=chips", "--accelerator-type=v5litepod-8"],
    *["--runtime-version=v2-alpha-tpuv5-lite", "--scopes=https://www.googleapis.com/auth/cloud-platform"],
]
STATE = [*QUEUE, "describe", "chips", *PLACE, "--format=value(state.state)"]
DELETE = [*QUEUE, "delete", "chips", *PLACE, "--force", "--quiet"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for name in ("gcloud", "xpk", "kubectl", "docker", "sky", "sbatch", "srun", "scontrol", "git", "python"):
        made.provide(name)
    return made


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_parse_it(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def linux() -> None:
    if sys.platform != "linux":
        pytest.skip("a worker's own commands are those of Linux")


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


# What is printed and not run


def test_tpu_vm_asks_for_chips_after_the_fit_check(machine: Machine) -> None:
    assert machine.dry_run("launch/tpu_vm.sh", "create", *RUN, **TPU) == [FIT_CHECK, CREATE]
    spot = machine.dry_run("launch/tpu_vm.sh", "create", *RUN, **TPU, SPOT="1", SKIP_FIT_CHECK="1")
    assert spot == [[*CREATE, "--spot"]]


def test_tpu_vm_run_is_create_setup_and_the_program_where_nothing_is_there_yet(machine: Machine) -> None:
    check, folder, pack, *rest, program = machine.dry_run("launch/tpu_vm.sh", "run", *RUN, **TPU)
    assert check == FIT_CHECK
    assert pack == ["git", "archive", "--format=tar.gz", "--output=build/chips.tar.gz", "HEAD"]
    state, create, *setup = rest
    assert (state, create) == (STATE, CREATE)
    assert [folder, pack, *setup] == machine.dry_run("launch/tpu_vm.sh", "setup", **TPU)
    wait, copy, prepare = setup
    assert wait == STATE
    assert copy == [*NODE, "scp", "build/chips.tar.gz", "chips:rlhf_jax.tar.gz", *PLACE, "--worker=all"]
    assert prepare[:-1] == [*NODE, "ssh", "chips", *PLACE, "--worker=all"]
    assert prepare[-1].endswith(" && bash rlhf_jax/launch/machine.sh results")
    assert program[:-1] == [*NODE, "ssh", "chips", *PLACE, "--worker=all"]
    assert program[-1].startswith("--command=cd rlhf_jax && ")


def test_tpu_vm_tail_stop_fetch_and_delete(machine: Machine) -> None:
    (stop,) = machine.dry_run("launch/tpu_vm.sh", "stop", **TPU)
    assert stop[-2:] == ["--worker=all", "--command=pkill -INT -f '^[.]venv/bin/python -m rlhf_jax.main'"]
    (tail,) = machine.dry_run("launch/tpu_vm.sh", "tail", **TPU)
    assert tail[-2:] == ["--worker=0", "--command=tail -n 50 -F rlhf_jax/run.log"]
    _, fetch = machine.dry_run("launch/tpu_vm.sh", "fetch", "--workdir=runs/my ppo", **TPU)
    assert fetch == ["gcloud", "storage", "rsync", "--recursive", "gs://results/my ppo", "runs/my ppo"]
    assert machine.dry_run("launch/tpu_vm.sh", "delete", **TPU) == [DELETE]


def test_gke(machine: Machine) -> None:
    check, cluster, storage = machine.dry_run("launch/gke.sh", "create", *RUN, **GKE, SPOT="1")
    assert check == FIT_CHECK
    assert cluster[:-1] == [
        *["xpk", "cluster", "create", *CLUSTER, "--tpu-type=v5litepod-8"],
        *["--num-slices=1", "--enable-gcsfuse-csi-driver"],
    ]
    assert cluster[-1] == "--spot"
    assert machine.dry_run("launch/gke.sh", "create", *RUN, **GKE)[1][-1] == "--on-demand"
    assert storage[:8] == ["xpk", "storage", "attach", "runs", *CLUSTER, "--type=gcsfuse"]
    assert {"--bucket=results", "--mount-point=/app/runs", "--readonly=false"} <= set(storage)
    build, push = machine.dry_run("launch/gke.sh", "image", **GKE)
    assert build == ["docker", "build", "--tag=registry/image:1", "--file=launch/Dockerfile", "."]
    assert push == ["docker", "push", "registry/image:1"]
    check, workload = machine.dry_run("launch/gke.sh", "run", *RUN, **GKE)
    assert check == FIT_CHECK
    assert workload[:-1] == [
        *["xpk", "workload", "create", *CLUSTER, "--workload=run-ppo-one", "--tpu-type=v5litepod-8"],
        *["--docker-image=registry/image:1", "--storage=runs", "--max-restarts=100"],
    ]
    (tail,) = machine.dry_run("launch/gke.sh", "tail", *RUN, **GKE)
    assert tail[-1] == "--selector=jobset.sigs.k8s.io/jobset-name=run-ppo-one"
    (cancel,) = machine.dry_run("launch/gke.sh", "cancel", *RUN, **GKE)
    assert cancel == ["xpk", "workload", "delete", *CLUSTER, "--workload=run-ppo-one", "--force"]
    assert machine.dry_run("launch/gke.sh", "delete", **GKE) == [["xpk", "cluster", "delete", *CLUSTER, "--force"]]


def test_sky(machine: Machine) -> None:
    check, launched = machine.dry_run("launch/sky.sh", *RUN, BUCKET="results", TOPOLOGY="v5e:2x4")
    assert check == FIT_CHECK
    flags = ["--yes", "--detach-run", "--name=run-ppo-one", "--env=BUCKET=results"]
    assert launched[:7] == ["sky", "jobs", "launch", *flags]
    assert launched[7].startswith("--env=ARGUMENTS=--config=")
    assert launched[8:] == ["launch/sky.yaml"]
    (on_gpu,) = machine.dry_run("launch/sky.sh", *RUN, BUCKET="results", GPU="H100:1")
    assert on_gpu == [*launched[:-1], "--gpus=H100:1", "launch/sky.yaml"]


def test_slurm(machine: Machine) -> None:
    _, submitted = machine.dry_run("launch/slurm.sh", *RUN, GPUS="4")
    assert submitted[0] == "sbatch"
    assert {"--job-name=run-ppo-one", "--gpus-per-node=4", "--requeue", "--dependency=singleton"} <= set(submitted)
    assert submitted[-4:] == ["launch/slurm_job.sh", *RUN]
    job = machine.dry_run("launch/slurm_job.sh", *RUN, SLURM_JOB_ID="7")
    assert job == [["srun", ".venv/bin/python", *PROGRAM]]


# What is printed is what is run

WITHOUT_A_LOOP = [
    *[f"tpu_vm.sh {verb}" for verb in ("create", "tail", "stop", "fetch", "delete")],
    *[f"gke.sh {verb}" for verb in ("create", "image", "run", "tail", "fetch", "cancel", "delete")],
    *["sky.sh", "slurm.sh", "slurm_job.sh"],
]


@pytest.mark.parametrize("command", WITHOUT_A_LOOP)
def test_a_dry_run_prints_exactly_what_is_run(machine: Machine, command: str) -> None:
    script, *verb = command.split()
    words, variables = [f"launch/{script}", *verb, *RUN], {**GKE, "PYTHON": "python", "SLURM_JOB_ID": "7"}
    printed = [line for line in machine.dry_run(*words, **variables) if line[0] != "mkdir"]
    assert machine.run(*words, **variables).returncode == 0
    assert machine.calls == printed != []


@pytest.mark.parametrize("command", WITHOUT_A_LOOP)
def test_what_fails_is_the_last_thing_that_is_run(machine: Machine, command: str) -> None:
    script, *verb = command.split()
    for name in ("gcloud", "xpk", "kubectl", "docker", "sky", "sbatch", "srun"):
        machine.provide(name, "exit 3")
    variables = {**GKE, "SKIP_FIT_CHECK": "1", "SLURM_JOB_ID": "7"}
    assert machine.run(f"launch/{script}", *verb, *RUN, **variables).returncode == 3
    assert len(machine.calls) == 1


# The arguments arrive as they were given


def received(machine: Machine, shell: str, folder: Path, **variables: str) -> list[list[str]]:
    """What the program is called with by a line of shell that a launcher hands over."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(machine.folder / "bin" / "python")
    before = len(machine.calls)
    subprocess.run(["bash", "-c", shell], cwd=folder, env={**machine.variables, **variables}, check=True, timeout=60)
    return machine.calls[before:]


def test_a_tpu_vm_gets_the_arguments(machine: Machine, linux: None) -> None:
    command = machine.dry_run("launch/tpu_vm.sh", "run", *RUN, **TPU)[-1][-1].removeprefix("--command=")
    worker = machine.folder / "worker"
    assert received(machine, f"cd {worker} && {command}", worker / "rlhf_jax") == [
        ["python", *PROGRAM],
    ]


def test_a_pod_gets_the_arguments(machine: Machine) -> None:
    command = machine.dry_run("launch/gke.sh", "run", *RUN, **GKE)[-1][-1].removeprefix("--command=")
    assert received(machine, f"({command})", machine.folder) == [["python", *PROGRAM]]


def test_a_sky_machine_gets_the_arguments(machine: Machine) -> None:
    *_, launched = machine.dry_run("launch/sky.sh", *RUN, BUCKET="results", TOPOLOGY="v5e:2x4")
    arguments = launched[7].removeprefix("--env=ARGUMENTS=")
    task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    assert set(task["envs"]) == {"BUCKET", "ARGUMENTS"}
    assert received(machine, task["run"], machine.folder, ARGUMENTS=arguments) == [["python", *PROGRAM]]


def test_sky_starts_again_what_sigterm_ended() -> None:
    task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [143]
    assert shlex.split(task["setup"]) == ["bash", "launch/machine.sh", "$BUCKET"]


# Bad input


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("tpu_vm.sh create", ["PROJECT", "ZONE", "NAME", "TOPOLOGY"]),
        ("tpu_vm.sh setup", ["PROJECT", "ZONE", "NAME", "BUCKET"]),
        ("tpu_vm.sh run", ["PROJECT", "ZONE", "NAME", "TOPOLOGY", "BUCKET"]),
        ("tpu_vm.sh tail", ["PROJECT", "ZONE", "NAME"]),
        ("tpu_vm.sh stop", ["PROJECT", "ZONE", "NAME"]),
        ("tpu_vm.sh fetch", ["PROJECT", "ZONE", "NAME", "BUCKET"]),
        ("tpu_vm.sh delete", ["PROJECT", "ZONE", "NAME"]),
        ("gke.sh create", ["PROJECT", "ZONE", "NAME", "TOPOLOGY", "BUCKET"]),
        ("gke.sh image", ["PROJECT", "ZONE", "NAME", "IMAGE"]),
        ("gke.sh run", ["PROJECT", "ZONE", "NAME", "TOPOLOGY", "IMAGE"]),
        ("sky.sh", ["TOPOLOGY", "BUCKET"]),
    ],
)
def test_a_missing_variable_is_one_sentence(machine: Machine, command: str, needed: list[str]) -> None:
    script, *verb = command.split()
    for missing in needed:
        given = {name: GKE[name] for name in needed if name != missing}
        result = machine.run(f"launch/{script}", *verb, *RUN, SKIP_FIT_CHECK="1", **given)
        said = f"error: {missing} is not set; the head of launch/{script} says what it is\n"
        assert (result.returncode, result.stderr, machine.calls) == (1, said, [])
    machine.dry_run(f"launch/{script}", *verb, *RUN, SKIP_FIT_CHECK="1", **{name: GKE[name] for name in needed})


@pytest.mark.parametrize("command", ["tpu_vm.sh run", "tpu_vm.sh fetch", "gke.sh run", "sky.sh", "slurm.sh"])
@pytest.mark.parametrize("workdir", ["--workdir=/tmp/x", "--workdir=runs/", "--config.workdir=runs/x"])
def test_results_must_outlive_the_machine(machine: Machine, command: str, workdir: str) -> None:
    script, *verb = command.split()
    result = machine.run(f"launch/{script}", *verb, "--config=configs/ppo.py", workdir, **GKE)
    said = "error: --workdir=runs/NAME is missing; only what is below runs/ outlives the machine\n"
    assert (result.returncode, result.stderr, machine.calls) == (1, said, [])


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh"])
@pytest.mark.parametrize("verb", [[], ["start"]])
def test_an_unknown_verb_is_one_sentence(machine: Machine, script: str, verb: list[str]) -> None:
    result = machine.run(f"launch/{script}", *verb, **GKE)
    assert result.returncode == 1
    assert re.fullmatch(
        rf"error: '(start)?' is no verb of launch/{script}; expected create, .* or delete\n", result.stderr
    )


@pytest.mark.parametrize(
    ("topology", "chips", "runtime"),
    [
        ("v4:2x2x1", "v4-8", "tpu-ubuntu2204-base"),
        ("v5e:2x4", "v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5e:16x16", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p:2x2x1", "v5p-8", "v2-alpha-tpuv5"),
        ("v6e:1x1", "v6e-1", "v2-alpha-tpuv6e"),
    ],
)
def test_chips_by_their_topology(machine: Machine, topology: str, chips: str, runtime: str) -> None:
    given = {**TPU, "TOPOLOGY": topology, "SKIP_FIT_CHECK": "1"}
    (create,) = machine.dry_run("launch/tpu_vm.sh", "create", *RUN, **given)
    assert {f"--accelerator-type={chips}", f"--runtime-version={runtime}"} <= set(create)


@pytest.mark.parametrize("topology", ["v5litepod-8", "v5e", "v5e:", "v5e:8", "v5e:2x0", "v7:2x2", "v5e:2x4;x"])
def test_a_topology_that_is_none(machine: Machine, topology: str) -> None:
    result = machine.run("launch/tpu_vm.sh", "create", *RUN, **{**TPU, "TOPOLOGY": topology})
    said = f"error: TOPOLOGY is {topology}; expected v4, v5e, v5p or v6e and the chips' grid, e.g. v5e:2x4\n"
    assert (result.returncode, result.stderr, machine.calls) == (1, said, [])


def test_sky_yaml_must_ask_for_the_chips_that_were_checked(machine: Machine) -> None:
    result = machine.run("launch/sky.sh", *RUN, BUCKET="results", TOPOLOGY="v5e:4x4")
    assert result.returncode == 1
    assert result.stderr.startswith("error: launch/sky.yaml does not ask for tpu-v5litepod-16, which is v5e:4x4; ")
    assert machine.calls == []


@pytest.mark.parametrize("command", ["tpu_vm.sh create", "tpu_vm.sh run", "gke.sh create", "gke.sh run", "sky.sh"])
def test_nothing_is_started_that_does_not_fit(machine: Machine, command: str) -> None:
    machine.provide("python", "exit 1")
    script, *verb = command.split()
    result = machine.run(f"launch/{script}", *verb, *RUN, **GKE, PYTHON="python")
    assert result.returncode == 1
    assert result.stderr.startswith("error: the run was not shown to fit v5e:2x4 (above); SKIP_FIT_CHECK=1 starts it")
    assert machine.calls == [["python", *FIT_CHECK[1:]]]


# Names of jobs


def job_name(machine: Machine, workdir: str) -> str:
    _, submitted = machine.dry_run("launch/slurm.sh", "--config=c.py", f"--workdir={workdir}")
    return submitted[1].removeprefix("--job-name=")


def test_job_names_suit_kubernetes_and_tell_the_runs_of_a_sweep_apart(machine: Machine) -> None:
    sweep = "runs/Search/learning_rate_3.95e-05-kl_coefficient_0.437-epochs_4-seed_{}"
    workdirs = ["runs/a", "runs/kl/kl_coefficient_0.05-seed_1", "runs/ÄÖ", "runs/x/", *map(sweep.format, range(5))]
    names = [job_name(machine, workdir) for workdir in workdirs]
    assert names[:2] == ["run-a", "run-kl-kl-coefficient-0-05-seed-1"]
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) < 40 for name in names)
    assert len(set(names)) == len(names)


# A TPU VM that is taken away

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
    process.wait(timeout=60)


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


def test_a_machine_that_is_there_is_used_as_it_is(cloud: Machine) -> None:
    for verb in ("create", "setup"):
        assert cloud.run("launch/tpu_vm.sh", verb, *RUN).returncode == 0
    assert verbs(cloud) == SET_UP
    printed = cloud.dry_run("launch/tpu_vm.sh", "run", *RUN)
    fates(cloud, "0 ACTIVE")
    assert cloud.run("launch/tpu_vm.sh", "run", *RUN).returncode == 0
    assert verbs(cloud) == [*SET_UP, *TRY]
    asked, shown = (
        [line for line in lines if line[0] == "gcloud" and line[:5] != STATE[:5]] for lines in (cloud.calls, printed)
    )
    assert asked == shown


def test_a_request_that_was_refused_ends_the_run(cloud: Machine) -> None:
    cloud.provide("gcloud", 'case "$*" in *create*) echo "no quota" >&2; exit 1 ;; *describe*) exit 1 ;; esac')
    result = cloud.run("launch/tpu_vm.sh", "run", *RUN)
    assert result.returncode == 1
    assert result.stderr.startswith("no quota\nerror: status 1, and chips is not there: not a preemption")
    assert verbs(cloud) == ["queued-resources create"]


def test_setup_without_chips_says_so(cloud: Machine) -> None:
    (cloud.folder / "cloud" / "state").write_text("FAILED\n")
    result = cloud.run("launch/tpu_vm.sh", "setup")
    assert result.returncode == 1
    assert result.stderr.startswith("the request for chips is FAILED; ")
    assert verbs(cloud) == []


# The machine itself


def test_a_new_machine_gets_what_it_lacks(cloud: Machine) -> None:
    result = cloud.run("launch/machine.sh", "my results", DRY_RUN="1")
    printed = [shlex.split(line) for line in result.stdout.splitlines()]
    assert cloud.calls == [["mountpoint", "--quiet", "runs"]], "a look, which changes nothing"
    assert printed[0] == ["make", "setup"]
    assert printed[-2:] == [["mkdir", "-p", "runs"], ["gcsfuse", "--metadata-cache-ttl-secs=0", "my results", "runs"]]


def test_a_machine_with_a_gpu_gets_jax_for_it_and_what_is_there_stays(machine: Machine) -> None:
    for name in ("uv", "nvidia-smi", "gcsfuse", "mountpoint"):
        machine.provide(name)
    install = [".venv/bin/python", "-m", "pip", "install", "--quiet", "-c", "constraints.txt", "-e", ".[cuda]"]
    result = machine.run("launch/machine.sh", "results", DRY_RUN="1")
    assert [shlex.split(line) for line in result.stdout.splitlines()] == [["make", "setup"], install]


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


def test_what_sbatch_refuses_is_the_status(machine: Machine) -> None:
    machine.provide("sbatch", "echo 'no such partition' >&2; exit 1")
    result = machine.run("launch/slurm.sh", *RUN)
    assert (result.returncode, result.stderr) == (1, "no such partition\n")
