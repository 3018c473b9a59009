"""Cut at any layer, the network of every family is the whole one, bit for bit. And the sampler is its forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import heads
from rlhf_jax.models.transformer import merge
from rlhf_jax.parallel.devices import cast
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling.rollouts import make_sample
from tests import tiny
from tests.families import FAMILIES, OPT

BATCH = tiny.sequences([9, 4], [[7, 8], [1, 3]], prompt=9, response=8)
REAL = np.asarray(BATCH.continuation()[1])
LATER = pytest.mark.soak
CUT = [
    pytest.param(FAMILIES[name], dtype, cuts, id=f"{name}-{dtype}", marks=marks)
    for name, cuts, quick in (
        ("llama", (0.1, 0.4, 0.7), ()),
        *((name, (0.4,), ()) for name in ("qwen3 windows", "opt 350m")),
        *((name, (0.4,), LATER) for name in ("opt", "llama biases")),
    )
    for dtype, marks in (("bfloat16", quick), ("float32", LATER))  # a cut shows in bfloat16 first
]


@pytest.mark.optimised
@pytest.mark.parametrize(("changes", "dtype", "freezes"), CUT)
def test_cut_at_any_layer_is_the_whole(changes, dtype, freezes):
    """Two programs instead of one. A LLaMA's trunk has no block, one or two, that of another family one."""
    whole, params = tiny.network(0.0, dtype, **changes)
    expected = np.asarray(jit(lambda p: whole.top(p, BATCH, whole.trunk(p, BATCH)))(params))[REAL]
    for freeze in freezes:
        model = dataclasses.replace(whole, freeze=freeze)
        trunk, top = model.split(params)
        edge = jit(model.trunk)(trunk, BATCH)
        hidden = jit(lambda trunk, top, edge, m=model: m.top(merge(trunk, top), BATCH, edge))(trunk, top, edge)
        np.testing.assert_array_equal(np.asarray(hidden)[REAL], expected, err_msg=f"freeze {freeze}")


# Windows that end before, inside and after the response, of a prompt of 10 tokens at most and 20 new ones.
WINDOWS = {f"window of {w}": {"family": "mistral", "windows": (w, w, w)} for w in (5, 11, 12, 29)}
ROUNDED = ("window of 11", "qwen3 windows", "opt 350m")
SAMPLED = [
    pytest.param(changes, dtype, id=f"{name}-{dtype}", marks=marks)
    for name, changes in {**WINDOWS, **{name: FAMILIES[name] for name in ("qwen3 windows", "opt", "opt 350m")}}.items()
    for dtype, marks in (("float32", ()), ("bfloat16", (pytest.mark.optimised, *(() if name in ROUNDED else [LATER]))))
]


@pytest.mark.parametrize(("changes", "dtype"), SAMPLED)
def test_what_is_sampled_is_what_is_scored(changes, dtype):
    """Invariant 2: with parameters as stages hold them, the trunk in the compute dtype and the top in float32."""
    model, params = tiny.network(0.4, dtype, layers=3, **changes)
    trunk, top = model.split(params)
    trunk = cast(trunk, model.dtype)
    prompts = tiny.sequences([10, 4], [[1], [1]], prompt=10, response=1)
    sample = make_sample(model, samples=2, max_new_tokens=20, temperature=0.7, eos_id=-1)
    sampled = sample(trunk, top, prompts.prompt, prompts.prompt_mask, np.arange(2), jax.random.key(0))
    params = merge(trunk, top)

    def forward(params):
        hidden = model.top(params, sampled.sequences, model.trunk(params, sampled.sequences))
        return heads.log_probs(model, params, sampled.sequences, hidden, 0.7)[0]

    np.testing.assert_allclose(sampled.log_probs, jit(forward)(params), atol=2e-5)


def test_positions_that_end_leave_room_for_what_is_sampled():
    model, params = tiny.network(0.0, **OPT)
    assert model.longest_prompt(48) == 256 - 48
    assert tiny.network(0.0)[0].longest_prompt(48) is None
    sample = make_sample(model, samples=1, max_new_tokens=48, temperature=1.0, eos_id=-1)
    prompt, mask = jnp.ones((1, 208), jnp.int32), jnp.ones((1, 208), bool)
    sampled = sample({}, params, prompt, mask, jnp.arange(1), jax.random.key(0))
    assert sampled.sequences.response.shape == (1, 1, 48)
