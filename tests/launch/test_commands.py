"""What the launch scripts run, word by word: in a dry run, for real, and on the other side."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.launch.machine import FIT_CHECK, GKE, PLACE, PROGRAM, ROOT, RUN, STATE, TPU, Machine

CLUSTER = ["--cluster=chips", *PLACE]
QUEUE = STATE[:4]
NODE = [*QUEUE[:3], "tpu-vm"]
CREATE = [
    *[*QUEUE, "create", "chips", *PLACE, "--node-id=chips", "--accelerator-type=v5litepod-8"],
    *["--runtime-version=v2-alpha-tpuv5-lite", "--scopes=https://www.googleapis.com/auth/cloud-platform"],
]
DELETE = [*QUEUE, "delete", "chips", *PLACE, "--force", "--quiet"]


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
    assert {"--nodes=1", "--ntasks-per-node=1"} <= set(submitted)
    assert "--nodes=2" in machine.dry_run("launch/slurm.sh", *RUN, NODES="2")[1]
    assert submitted[-4:] == ["launch/slurm_job.sh", *RUN]
    job = machine.dry_run("launch/slurm_job.sh", *RUN, SLURM_JOB_ID="7")
    assert job == [["srun", ".venv/bin/python", *PROGRAM]]
    machine.provide("srun", 'echo "$JAX_LOCAL_DEVICE_IDS"')
    nodes = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    assert machine.run("launch/slurm_job.sh", *RUN, **nodes).stdout == "0,1,2,3\n"
    assert machine.calls[-1] == ["srun", ".venv/bin/python", *PROGRAM[:-1], "--hosts=2"]


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
    assert received(machine, f"cd {worker} && {command}", worker / "rlhf_jax") == [["python", *PROGRAM]]


def test_a_sky_machine_gets_the_arguments(machine: Machine) -> None:
    *_, launched = machine.dry_run("launch/sky.sh", *RUN, BUCKET="results", TOPOLOGY="v5e:2x4")
    arguments = launched[7].removeprefix("--env=ARGUMENTS=")
    task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    assert set(task["envs"]) == {"BUCKET", "ARGUMENTS"}
    assert received(machine, task["run"], machine.folder, ARGUMENTS=arguments) == [["python", *PROGRAM]]
