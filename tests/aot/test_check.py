"""The check as it is run: bad input is a sentence, and a tiny study's PPO compiles for four v5e chips."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.aot import programs, topologies
from rlhf_jax.aot.check import check as check_config
from rlhf_jax.aot.compiled import Collective, collectives
from rlhf_jax.config import to_dict
from rlhf_jax.main import read_flags
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.chips import CHIPS
from rlhf_jax.stages.runner import resolve
from tests import tiny

ROOT = Path(__file__).parents[2]
WIDE = {"width": 128, "head_dim": 32, "mlp_features": 512}  # every weight is larger than any activation of a token
LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not LIBTPU, reason="compiles for TPUs: needs libtpu, which the extra [tpu] brings")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "launch/aot_check.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def said(*arguments: str) -> str:
    result = check(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_an_unknown_topology_is_answered_with_those_there_are():
    assert "--topology is 'v5e:3x3'; expected one of v4:1x1x1, " in said(
        "--topology=v5e:3x3", "--config=configs/sft.py"
    )


def test_a_stage_without_a_network_is_refused():
    message = "config.stage is 'evaluate'; what can be checked: sft, reward, ppo, best_of_n, generate"
    assert message in said("--topology=v5e:2x2", "--config=configs/evaluate.py")


@pytest.mark.skipif(LIBTPU, reason="libtpu is installed")
def test_without_libtpu_it_says_what_to_install():
    expected = "libtpu, which compiles for TPUs, is not installed; pip install -e '.[tpu]' brings it"
    assert expected in said("--topology=v5e:2x2", "--config=configs/sft.py")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """PPO of a tiny network: eight prompts of 128 tokens, sampled four at a time, on a mesh of 2 x 1 x 2."""
    model = tiny.write_model(tmp_path_factory.mktemp("model"), **WIDE)
    sizes = {"model": model, "mesh.data": 2, "mesh.tensor": 2}
    sizes |= {"prompts_per_rollout": 8, "sampling_batch": 4, "microbatch": 4}
    sizes |= {"algorithm.max_new_tokens": 12, "algorithm.num_mini_batches": 1, "dtype": "bfloat16"}
    return ["--config=configs/ppo.py", *(f"--config.{key}={value}" for key, value in sizes.items())]


@needs_libtpu
def test_a_study_is_compiled_and_fits(arguments):
    result = check("--topology=v5e:2x2", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert (found["fits"], found["devices"], found["memory"]) == (True, 4, CHIPS["v5e"].memory)
    of = found["programs"]
    calls = {"prefill": 2, "decode": 2, "join": 1, "score": 1, "update": 1}
    assert {name: program["calls"] for name, program in of.items()} == calls
    for name, program in of.items():
        kinds = program["memory"]
        assert kinds["peak"] == sum(kinds[kind] for kind in ("arguments", "outputs", "temporaries", "program")), name
    assert of["update"]["memory"]["aliased"] > 0.9 * state_bytes()  # the state is donated
    assert of["join"]["collectives"] == []  # every k-th row: nothing moves when batches are joined
    in_epochs = [row for row in of["update"]["collectives"] if row["loops"] == 2]
    assert in_epochs and all(row["times"] == 4 * 2 for row in in_epochs)  # four epochs of two microbatches
    expected = sum(program["calls"] * program["seconds"] for program in of.values())
    assert found["step_seconds"] == pytest.approx(expected)


@needs_libtpu
def test_what_cannot_fit_is_not_compiled():
    large = ["--config=configs/sft_tldr.py:llama7b", "--config.mesh.tensor=1"]
    result = check("--topology=v5e:1x1", *large)
    assert (result.returncode, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert (found["fits"], found["step_seconds"]) == (False, None)
    assert list(found["programs"]) == ["update", "evaluate", "prefill", "decode"]
    for program in found["programs"].values():
        assert program["needed"] > found["memory"] and program["compile_seconds"] == 0
    first = check_config(read_flags(["check", *large, "--workdir=none"])[0], "v5e:1x1", whole=False)
    assert (first["fits"], list(first["programs"])) == (False, ["update"])


def state_bytes() -> float:
    """Top and two moments of one block, in float32, divided over `tensor`."""
    block = 128 * (8 * 32 + 4 * 32 + 3 * 512)
    return 3 * 4 * block / 2


@needs_libtpu
@pytest.mark.parametrize(("axis", "moves_weights"), [("tensor", False), ("fsdp", True)])
def test_decoding_moves_no_weights_but_where_they_are_divided_for_training_alone(arguments, axis, moves_weights):
    """On a mesh with a tensor axis every collective inside the loop is smaller than any share of a weight."""
    found = decode_collectives(arguments, axis)
    smallest = 128 * 128 * 2 // 2  # `out` in bfloat16, halved
    inside = [each.bytes for each in found if each.loops]
    assert inside
    assert (max(inside) >= smallest) == moves_weights


@needs_libtpu
def test_a_whole_vocabulary_is_not_gathered_to_sample_from(arguments):
    """Of a divided one every row's numbers have to be on one device at each token."""
    divided, whole = (
        {each.kind for each in decode_collectives(arguments, "tensor", **rules) if each.loops}
        for rules in ({}, {"vocab": []})
    )
    assert "all-gather" in divided and "all-gather" not in whole


def decode_collectives(arguments: list[str], axis: str, **rules: list[str]) -> list[Collective]:
    config = to_dict(read_flags(["check", *arguments, "--workdir=none"])[0])
    config["mesh"] = {"data": -1, "fsdp": 1, "tensor": 1, axis: 2, "rules": rules}
    _, devices = topologies.devices("v5e:2x2")
    _, parsed = resolve(config)
    with sharding.arrange(parsed.mesh, devices):
        decode = next(program for program in programs.list_programs(parsed) if program.name == "decode")
        return collectives(decode.lower().compile().as_text(), len(devices))
