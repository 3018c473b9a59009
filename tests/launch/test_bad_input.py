"""What the launch scripts refuse: one sentence, status 1, and nothing started."""

import pytest

from tests.launch.machine import FIT_CHECK, GKE, RUN, TPU, Machine


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("tpu_vm.sh create", ["PROJECT", "ZONE", "NAME", "TOPOLOGY"]),
        ("tpu_vm.sh run", ["PROJECT", "ZONE", "NAME", "TOPOLOGY", "BUCKET"]),
        ("tpu_vm.sh fetch", ["PROJECT", "ZONE", "NAME", "BUCKET"]),
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
@pytest.mark.parametrize(
    "workdir", ["--workdir=/tmp/x", "--workdir=runs/", "--workdir=runs/../x", "--config.workdir=runs/x"]
)
def test_results_must_outlive_the_machine(machine: Machine, command: str, workdir: str) -> None:
    script, *verb = command.split()
    result = machine.run(f"launch/{script}", *verb, "--config=configs/ppo.py", workdir, **GKE)
    said = "error: --workdir=runs/NAME is missing; only what is below runs/ outlives the machine\n"
    assert (result.returncode, result.stderr, machine.calls) == (1, said, [])


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh", "sky.sh", "slurm.sh"])
def test_a_dry_run_that_is_misspelt_asks_for_no_chips(machine: Machine, script: str) -> None:
    result = machine.run(f"launch/{script}", "run", *RUN, **GKE, DRY_RUN="true")
    said = "error: DRY_RUN is 'true', expected 1, or not to be set\n"
    assert (result.returncode, result.stderr, machine.calls) == (1, said, [])


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
