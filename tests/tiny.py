"""A LLaMA small enough to compile in a second or two, and the files that stages read, for tests of both.

The embedding is drawn wider than a real one: logits then differ by whole nats, and a wrong state shows in them.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.profiler import ProfileData

from rlhf_jax.data.loading import Loading
from rlhf_jax.data.records import Example, Samples, write
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.hf.pretrained import save_pretrained
from rlhf_jax.models.scan import Blocks
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.parallel.sharding import Mesh
from rlhf_jax.rl.ppo_config import Algorithm, Paper
from rlhf_jax.training.checkpoint import Checkpoints
from rlhf_jax.training.loggers import Logging
from rlhf_jax.training.loop import Loop
from rlhf_jax.training.state import State

MESH = Mesh(data=1, fsdp=1, tensor=1)
LOADING = Loading(num_workers=0, drop_shards=False)
BLOCKS = Blocks()
VOCABULARY = 300
FREEZE = 0.5  # one block of two or three


def architecture(**changes: Any) -> Architecture:
    """Three blocks, two KV heads of two queries each."""
    sizes = {"vocabulary": VOCABULARY, "width": 32, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8}
    rest = {"mlp_features": 48, "epsilon": 1e-5, "max_length": 256, "tied": True}
    return Architecture(**{**sizes, **rest, **changes})


def network(freeze: float = FREEZE, dtype: str = "float32", seed: int = 0, **changes: Any) -> tuple[Model, Params]:
    """A random network and all its parameters in float32, with norms that are not all ones. Nothing is compiled."""
    model = Model(architecture(**changes), jnp.dtype(dtype), freeze)
    abstract = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        kind = path[-1].key
        if kind == "scale":
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(0.0, 0.5 if kind == "table" else model.architecture.width**-0.5, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return model, jax.tree.map_with_path(draw, abstract)


def with_role(params: Params, role: str, seed: int = 5) -> Params:
    """Parameters with a random head of a role."""
    width = params["norm"]["scale"].shape[0]
    return {**params, role: {"kernel": jnp.asarray(np.random.default_rng(seed).normal(0.0, 0.3, width), jnp.float32)}}


def sequences(
    prompts: list[int], responses: list[list[int]], prompt: int, response: int, seed: int = 0, pad: int = 1
) -> Sequences:
    """Random tokens (2 and above) of the given real lengths, right-padded to `prompt` and `response` with `pad`.

    A response ends in the EOS id 1, so with the default `pad` an EOS is told from padding by the mask alone.
    """
    rng = np.random.default_rng(seed)
    shape = (len(prompts), len(responses[0]), response)
    batch = Sequences(
        np.full((len(prompts), prompt), pad, np.int32),
        np.arange(prompt) < np.array(prompts)[:, None],
        np.full(shape, pad, np.int32),
        np.arange(response) < np.array(responses)[..., None],
    )
    for row, length in enumerate(prompts):
        batch.prompt[row, :length] = rng.integers(2, VOCABULARY, length)
        for sample, n in enumerate(responses[row]):
            batch.response[row, sample, :n] = [*rng.integers(2, VOCABULARY, max(n - 1, 0)), 1][:n]
    return batch


# What the tests of the stages that sample set alike.
SAMPLING = {
    "top_k": 0,
    "max_new_tokens": 6,
    "max_prompt": 64,
    "truncation": "text",
    "dtype": "float32",
    "mesh": MESH,
    "blocks": BLOCKS,
    "seed": 5,
}
# What the tests of every training stage set alike.
TRAINING = {
    "loading": LOADING,
    "dtype": "float32",
    "mesh": MESH,
    "blocks": BLOCKS,
    "prompt_buckets": (96,),
    "truncation": "text",
    "stop_grace": 0.0,
    "logging": Logging(),
    "seed": 0,
}
QUIRKS = {field.name: False for field in dataclasses.fields(Paper)}
ALGORITHM = Algorithm(
    temperature=0.7,
    max_new_tokens=8,
    kl_coef=0.3,
    kl_estimator="k1",
    kl_in="reward",
    kl_target=0.0,
    kl_horizon=100,
    refresh_reference_every=0,
    score_scale=1.0,
    score_clip=0.0,
    length_penalty=0.0,
    missing_eos_penalty=1.5,
    whiten_rewards=False,
    gamma=0.97,
    gae_lambda=0.9,
    value_model="policy",
    value_start="zero",
    value_warmup_steps=0,
    num_ppo_epochs=3,
    num_mini_batches=2,
    cliprange=0.2,
    cliprange_value=0.2,
    vf_coef=0.1,
    entropy_coef=0.0,
    target_kl=0.0,
    paper=Paper(**QUIRKS),
)


def algorithm(**changes: Any) -> Algorithm:
    """PPO's settings with some changed. The names of quirks turn them on."""
    quirks = {name: changes.pop(name) for name in QUIRKS if name in changes}
    return dataclasses.replace(ALGORITHM, paper=Paper(**{**QUIRKS, **quirks}), **changes)


def nudged(params: Params, size: float, seed: int = 9) -> Params:
    """Every array moved a little, each in a direction of its own."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + size * jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)


def ids(batch: Sequences, row: int, sample: int) -> list[int]:
    """The real tokens of one prompt and one response, joined."""
    prompt, response = batch.prompt[row][batch.prompt_mask[row]], batch.response[row, sample]
    return [int(i) for i in [*prompt, *response[batch.response_mask[row, sample]]]]


def examples(splits: dict[str, int]) -> list[Example]:
    """Made-up documentation, every record a different one."""
    rng = np.random.default_rng(7)
    verbs, nouns = ("Return", "Sort", "Copy", "Join", "Read"), ("array", "file", "list", "tree", "axis", "buffer")
    made = []
    for split, count in splits.items():
        for i in range(count):
            verb, noun, other = rng.choice(verbs), *rng.choice(nouns, 2)
            text = f"{verb} the {noun} number {i} of the {split} {other}. The {other} stays as it is."
            prompt = f"PACKAGE: p\nNAME: {noun}{i}\nTEXT: {text[: 20 + 9 * (i % 5)]}\nTL;DR:"
            made.append(Example(f"{split}/{i}", split, prompt, f"{verb} {noun} {i}." if i % 3 else f"{verb} it."))
    return made


def samples(id: str, outputs: list[str], **fields: Any) -> Samples:
    """A record of outputs that all ended, none of them selected or scored, with some fields changed."""
    n = len(outputs)
    record = Samples(id, "id_test", "p", "r", outputs, None, ["eos"] * n, None, "m", "", 1.0, n, 0)
    return dataclasses.replace(record, **fields)


def write_data(folder: Path) -> str:
    """`examples.jsonl` with splits train, validation and id_test."""
    path = folder / "examples.jsonl"
    write(path, examples({"train": 24, "validation": 5, "id_test": 4}))
    return str(path)


def write_model(folder: Path, seed: int = 0, **changes: Any) -> str:
    """A Hugging Face folder: the random network, of two blocks only, and a tokenizer of its vocabulary."""
    model, params = network(seed=seed, **{"layers": 2, **changes})
    texts = [f"{example.prompt} {example.response}" for example in examples({"train": 24, "validation": 5})]
    train_tokenizer(texts, model.architecture.vocabulary).save_pretrained(folder)
    save_pretrained(folder, model, params)
    return str(folder)


def write_run(folder: Path, top: Params, meta: dict[str, Any]) -> str:
    """A run's folder with one checkpoint, as `load_top` reads it."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(1, {"step": jnp.int32(1), "top": top}, meta)
    return str(folder)


def assert_same(actual: Any, expected: Any) -> None:
    """Bit for bit, leaf by leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, left), right in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert left.dtype == right.dtype, path
        assert left.tobytes() == right.tobytes(), path


def assert_all_moved(actual: Any, start: Any) -> None:
    """Some value of every leaf is another."""
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a != b).any()), actual, start))


def assert_refused(run: Callable[[Any, Path], None], config: Any, workdir: Path, message: str) -> None:
    """A training stage says what is wrong, and leaves neither checkpoints nor metrics."""
    with pytest.raises(UserError, match=message):
        run(config, workdir)
    assert not list(workdir.glob("checkpoints/*"))
    assert not (workdir / "metrics.jsonl").exists()


@contextlib.contextmanager
def after_step(step: int, action: Callable[[], None]) -> Iterator[None]:
    """Acts once metrics of a step are written, before anything of it is saved."""
    log = Loop.log

    def log_and_act(self: Loop, number: int, *arguments: Any) -> None:
        log(self, number, *arguments)
        if number == step:
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "log", log_and_act)
        yield


def final_state(workdir: Path, like: State) -> State:
    """The state in a run's last checkpoint."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(like)


def logged(workdir: Path, name: str = "metrics") -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` or `timing.jsonl`."""
    return [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


def traced(folder: Path, phase: str) -> dict[str, list[str]]:
    """By profile of a run, the names of its events that begin with `phase`."""
    found = {}
    for path in sorted(folder.glob("*/plugins/profile/*/*.xplane.pb")):
        host = ProfileData.from_file(str(path)).find_plane_with_name("/host:CPU")
        names = [event.name for line in host.lines for event in line.events if event.name.startswith(phase)]
        found[path.relative_to(folder).parts[0]] = names
    return found
