"""Several processes as one run: they agree, wait and end together. `test_meshes` has what they compute."""

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rlhf_jax.parallel import hosts
from tests.devices import assert_same, command, ended, start, start_all, study
from tests.kills import Moment, assert_identical, kill

TALK = """
import sys
import jax
import numpy as np
from rlhf_jax.parallel import file_layout, hosts, sharding
from rlhf_jax.errors import UserError

def refused(function, *arguments):
    try:
        function(*arguments)
    except UserError as error:
        say(error)

def say(*words):
    print(*words, file=said)

hosts.start(2, {})
me = jax.process_index()
said = open(f"{sys.argv[1]}/{me}.txt", "w", buffering=1)
say(hosts.count(), hosts.is_main(), hosts.exchange("a greeting", f"from {me}"), hosts.highest(5 - 3 * me))
hosts.agree("a fact", {"config": {"x": [1, 2.5], "y": {"z": None}}})
refused(hosts.agree, "another", {"config": {"x": 1, "y": {"z": me}}, f"own {me}": 1})
refused(sharding.use(sharding.Mesh(2, 2, 1)).__enter__)
with sharding.use(sharding.Mesh(-1, 2, 1)), jax.transfer_guard("disallow"):
    rows = np.arange(48.0).reshape(8, 2, 3)
    batch = sharding.rows({"x": rows, "y": rows[:, 0]})
    assert [shard.data.shape for shard in batch["x"].addressable_shards] == [(1, 2, 3)] * 4
    assert not batch["x"].is_fully_addressable
    own = sharding.own_rows(8)
    assert own.tolist() == [me == 0] * 4 + [me == 1] * 4
    theirs = np.where(own[:, None, None], rows, np.nan)
    np.testing.assert_array_equal(sharding.whole(sharding.rows(theirs)), rows)
    back = sharding.whole(jax.tree.map(lambda x: x + x, batch) | {"z": rows})
    key, number = sharding.spread((jax.random.key(sharding.spread(3)), 0.5))
    assert len(key.sharding.device_set) == len(number.sharding.device_set) == 8
    drawn = sharding.whole(jax.jit(jax.random.uniform)(key) + number)
for sizes in (sharding.Mesh(1, 1, 8), sharding.Mesh(1, 2, 4), sharding.Mesh(1, 8, 1)):
    with sharding.use(sizes):
        own = sharding.own_rows(8).tolist()
        assert own == ([True] * 8 if sizes.fsdp == 1 else [me == 0] * 4 + [me == 1] * 4), sizes
with sharding.use(sharding.Mesh(-1, 2, 1)):
    runs = {"layers": {"4-5": {"w": sharding.place(rows.reshape(2, 8, 3), (None, "batch", None))}, "6": {"w": rows}}}
    blocks = sharding.whole(file_layout.unstacked(runs))["layers"]
assert sorted(blocks) == ["4", "5", "6"]
np.testing.assert_array_equal(blocks["5"]["w"], rows.reshape(2, 8, 3)[1])
assert drawn == jax.random.uniform(jax.random.key(3)) + 0.5
assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(back))
np.testing.assert_array_equal(back["x"], 2 * rows)
np.testing.assert_array_equal(back["y"], 2 * rows[:, 0])
np.testing.assert_array_equal(back["z"], rows)
if me == 0:
    refused(hosts.barrier, "the middle", 0.5)
sys.exit(hosts.leave(7))
"""


def test_processes_talk_and_name_who_differs_or_is_missing(tmp_path):
    """What they say goes into files: their standard output is also Gloo's, whose lines tear those of others."""
    first, second = ended(*start_all(4, *[("-c", TALK, str(tmp_path))] * 2))
    assert (first.returncode, second.returncode) == (7, 7), first.stderr + second.stderr
    apart = [
        "the hosts disagree: config.y.z is 0 on process 0 and 1 on process 1; own 0 is 1 on process 0 and absent on "
        "process 1; own 1 is absent on process 0 and 1 on process 1",
        "the mesh is data 2 x fsdp 2 x tensor 1: 4 of 8 devices, none of process 1; several hosts expect devices of "
        "each, best all (data -1)",
    ]
    greeting = "['from 0', 'from 1'] 5"
    late = "process 1 of 2 did not reach 'the middle' in 0 s"
    assert (tmp_path / "0.txt").read_text().splitlines() == [f"2 True {greeting}", *apart, late]
    assert (tmp_path / "1.txt").read_text().splitlines() == [f"2 False {greeting}", *apart]


def test_one_process_talks_to_itself():
    hosts.start(1, {})
    assert (hosts.count(), hosts.is_main(), hosts.highest(3), hosts.leave(1)) == (1, True, 3, 1)
    assert hosts.exchange("a greeting", "text") == ["text"]


# Hosts, the variables of the environment, and the sentence.
REFUSED = [
    (0, {}, "--hosts is 0, expected 1 or more"),
    (1, {"JAX_PROCESS_ID": "1"}, "--hosts is 1 and JAX_PROCESS_ID is 1, so others run beside it; --hosts=N"),
    (2, {"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID is 1 and JAX_COORDINATOR_ADDRESS is not set, expected host:port"),
    (2, {"JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "h:1"}, "JAX_PROCESS_ID is '2', expected a number below"),
    (2, {}, "the 2 processes that --hosts asks for cannot come together: coordinator_address should be defined"),
]
START = """
import os
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import hosts
for expected, variables, _ in CASES:
    os.environ.update(variables)
    try:
        hosts.start(expected, {})
    except UserError as error:
        print(error)
    for name in variables:
        del os.environ[name]
"""


def test_what_cannot_start_is_one_sentence():
    (ran,) = ended(start(1, "-c", START.replace("CASES", repr(REFUSED))))
    for line, (*_, sentence) in zip(ran.stdout.splitlines(), REFUSED, strict=True):
        assert line.startswith(sentence)


def test_hosts_that_disagree_write_nothing(tmp_path):
    words = command(tmp_path / "study", "2,2,2", "--hosts=2")
    for ran in ended(*start_all(1, words, (*words, "--config.seed=1"))):
        assert ran.returncode == 1
        assert ran.stderr.startswith("error: the hosts disagree: config.seed is 0 on process 0 and 1 on process 1; ")
        assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.soak
def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    folders = tmp_path / "a" / "study", tmp_path / "b" / "study"
    first, second = start_all(1, *(command(folder, "2,2,2", "--hosts=2") for folder in folders))
    (ran,) = ended(second)
    first.kill()
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert f"error: {folders[1]} is not what process 0 sees there; several hosts need a workdir" in ran.stderr


def until(process: subprocess.Popen, run: Path, steps: int) -> None:
    """Returns when a run has logged so many steps. Lines of progress are not for every step."""
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
        assert process.poll() is None, f"it ended before it made {steps} steps"
        time.sleep(0.01)


@pytest.mark.soak
@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_is_killed_ends_the_other_and_both_go_on(whole, tmp_path, killed):
    folder = tmp_path / whole.name
    processes = start_all(4, *[command(folder, "2,2,2", "--hosts=2")] * 2)
    until(processes[0], folder / "reward", 3)
    processes[killed].kill()
    survivor = ended(*processes)[1 - killed]
    assert survivor.returncode == hosts.GONE
    assert survivor.stderr.rstrip().splitlines()[-1].startswith("error: this process cannot go on, most likely because")
    assert_same(study(folder, "2,2,2", hosts=2), whole)


# In the order of the study, each a kill of one host or the other.
MOMENTS = [
    Moment("prepare", "begin"),
    Moment("initialize", "folder"),
    *(Moment("sft", phase) for phase in ("compile", "step", "step", "checkpoint")),
    *(Moment("sample_pairs", phase) for phase in ("compile", "sample")),
    Moment("preferences", "begin"),
    *(Moment("reward", phase) for phase in ("compile", "step", "step", "checkpoint")),
    *(Moment("ppo", phase) for phase in ("compile", "step", "step", "checkpoint", "checkpoint")),
    *(Moment("best_of_n", phase) for phase in ("compile", "sample")),
]


@pytest.mark.soak
def test_two_hosts_of_which_one_is_killed_twenty_times_end_as_if_none_was(tmp_path):
    """To the last bit, as `test_kills` has it for one process. A host that is left says that it cannot go on."""
    rng, folder, logs = random.Random(0), tmp_path / "killed", [tmp_path / "0.log", tmp_path / "1.log"]
    words = command(folder, "2,2,2", "--hosts=2")
    for number, moment in enumerate(MOMENTS):
        cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / f"{number}")} if moment.phase == "compile" else {}
        hit = False
        while not hit:
            processes = start_all(4, words, words, logs=logs, JAX_LOG_COMPILES="1", **cache)
            try:
                hit = kill(processes, logs[0], folder, moment, rng, victim=number % 2)
                assert not hit or processes[1 - number % 2].wait(timeout=300) == hosts.GONE, moment
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            if not hit:  # the stage had ended: it is to begin anew
                shutil.rmtree(folder / moment.stage)
    found = study(folder, "2,2,2", hosts=2)
    assert_identical(found, study(tmp_path / "whole", "2,2,2", hosts=2))


@pytest.mark.soak
def test_a_signal_to_one_host_stops_both_and_both_go_on(whole, tmp_path):
    folder = tmp_path / whole.name
    processes = start_all(4, *[command(folder, "2,2,2", "--hosts=2")] * 2)
    until(processes[0], folder / "sft", 1)
    processes[1].send_signal(signal.SIGTERM)
    assert [ran.returncode for ran in ended(*processes)] == [143, 143]
    assert_same(study(folder, "2,2,2", hosts=2), whole)


@pytest.mark.soak
@pytest.mark.parametrize(("mesh", "processes"), [("2,2,2", 1), ("8,1,1", 2)])
def test_a_run_of_two_hosts_goes_on_otherwise(whole, tmp_path, mesh: str, processes: int):
    """On one process, and on another mesh. PPO's last step is made after the change."""
    folder: Path = study(tmp_path / whole.name, "2,2,2", "--config.stages.ppo.num_rollouts=2", hosts=2)
    assert_same(study(folder, mesh, hosts=processes), whole)
