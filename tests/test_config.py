"""`config.parse` is strict: right keys and types pass unchanged, everything else is one sentence with the key in it."""

import dataclasses
import json
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict, FieldReference

from rlhf_jax.config import parse, to_dict
from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    learning_rate: float
    schedule: Literal["constant", "linear"] = "constant"


@dataclasses.dataclass(frozen=True)
class Outer:
    stage: str
    steps: int
    optimizer: Inner
    buckets: tuple[int, ...] = (64, 128)
    pair: tuple[int, str] = (1, "a")
    samples: dict[str, str] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    limit: int | None = None
    value: Inner | None = None
    whiten: bool = False
    free: Any = None


def minimal(**changes: Any) -> dict[str, Any]:
    return {"stage": "sft", "steps": 3, "optimizer": {"learning_rate": 0.1}} | changes


def test_a_dict_becomes_the_dataclass() -> None:
    config = parse(Outer, minimal(buckets=[32], samples={"sft": "a.jsonl"}, limit=4, value={"learning_rate": 1}))
    assert config == Outer(
        "sft", 3, Inner(0.1), buckets=(32,), samples={"sft": "a.jsonl"}, limit=4, value=Inner(1.0, "constant")
    )
    assert isinstance(config.value, Inner)
    assert type(config.value.learning_rate) is float


def test_a_config_dict_becomes_the_dataclass_with_references_resolved_and_order_kept() -> None:
    seed = FieldReference(3)
    mapping = ConfigDict(minimal(steps=seed))
    mapping.stages = ConfigDict(sort_keys=False)
    mapping.stages.sft = {"seed": seed}
    mapping.stages.bon = {"seed": seed, "prompts": (1, 2)}
    seed.set(7)
    config = parse(Outer, mapping)
    assert config.steps == 7
    assert list(config.stages) == ["sft", "bon"]
    assert config.stages == {"sft": {"seed": 7}, "bon": {"seed": 7, "prompts": [1, 2]}}


def test_to_dict_is_what_json_reads_back_and_parses_to_the_same() -> None:
    config = parse(Outer, minimal(pair=(2, "b"), stages={"z": {"k": 1}, "a": {}}))
    plain = to_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain["stages"]) == ["z", "a"]
    assert parse(Outer, plain) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stpes": 3}, "config has no key 'stpes'; did you mean 'steps'?"),
        ({"zzz": 3}, "config has no key 'zzz'; expected one of stage, steps"),
        ({"optimizer": {"learning_rate": 0.1, "shedule": "linear"}}, "config.optimizer has no key 'shedule'; did you"),
        ({"optimizer": {}}, "config.optimizer lacks the key 'learning_rate'"),
        ({"optimizer": 3}, "config.optimizer is 3 (int), expected a"),
        ({"optimizer": {"learning_rate": "0.1"}}, "config.optimizer.learning_rate is '0.1' (str), expected a valid"),
        ({"optimizer": {"learning_rate": 1, "schedule": "cubic"}}, "config.optimizer.schedule is 'cubic' (str)"),
        ({"value": {"rate": 1}}, "config.value has no key 'rate'"),
        ({"steps": 3.0}, "config.steps is 3.0 (float), expected a valid integer"),
        ({"steps": True}, "config.steps is True (bool), expected a valid integer"),
        ({"steps": None}, "config.steps is None (NoneType), expected a valid integer"),
        ({"whiten": 1}, "config.whiten is 1 (int), expected a valid boolean"),
        ({"stage": 1}, "config.stage is 1 (int), expected a valid string"),
        ({"limit": "4"}, "config.limit is '4' (str), expected a valid integer"),
        ({"buckets": 64}, "config.buckets is 64 (int), expected a valid array"),
        ({"buckets": [64, "b"]}, "config.buckets[1] is 'b' (str), expected a valid integer"),
        ({"pair": [1]}, "config.pair lacks the entry 1"),
        ({"samples": {"sft": 3}}, "config.samples.sft is 3 (int), expected a valid string"),
        ({"sizes": {"train": "all"}}, "config.sizes.train is 'all' (str), expected a valid integer"),
        ({"stages": {"sft": "x"}}, "config.stages.sft is 'x' (str), expected an object"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(Outer, minimal(**changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_text_that_is_not_unicode_is_told() -> None:
    with pytest.raises(UserError, match=r"^config holds a text that is not valid Unicode \(lone leading surrogate"):
        parse(Outer, minimal(samples={"sft": "caf\udce9.jsonl"}))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"^study lacks the key 'steps'$"):
        parse(Outer, {"stage": "sft", "optimizer": {"learning_rate": 1.0}}, where="study")


def test_an_old_key_names_the_new_one_and_a_domain_is_checked() -> None:
    from rlhf_jax.rl.ppo_config import Algorithm
    from tests import tiny

    plain = to_dict(tiny.ALGORITHM)
    for key, message in {"discount": "it is 'gamma' now", "top_p": "it no longer exists"}.items():
        with pytest.raises(UserError, match=f"config.algorithm has the old key '{key}'; {message}"):
            parse(Algorithm, plain | {key: 1.0}, "config.algorithm")
    for changes in ({"cliprange": -0.2}, {"gamma": 1.5}, {"temperature": float("nan")}, {"num_ppo_epochs": 0}):
        [(key, value)] = changes.items()
        with pytest.raises(UserError, match=f"config.{key} is {value} "):
            parse(Algorithm, plain | changes)
