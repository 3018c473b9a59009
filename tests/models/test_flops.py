"""The formula of `work` against counts that are made one product at a time."""

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.models.flops import Costs, Rows
from rlhf_jax.models.transformer import Model
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.sharding import Rules
from tests import tiny


@pytest.mark.parametrize("freeze", [0.0, 0.5])
def test_every_product_of_a_pass_over_prompts_and_responses(freeze):
    a = tiny.architecture(layers=4)
    costs = Costs(Model(a, jnp.dtype("float32"), freeze))
    flops = 0
    for _ in range(3):  # prompts of 7 tokens with two responses of 5, which are fed from the prompt's last token on
        for tokens, before in ((7, 0), (6, 7), (6, 7)):
            for inputs, outputs in ((32, 8 * 8), (32, 32), (32, 2 * 48), (48, 32)):
                flops += 2 * tokens * inputs * outputs
            seen = tokens * before + tokens * tokens / 2
            flops += 2 * 2 * a.heads * a.head_dim * seen  # scores, and values weighed by them
    rows = Rows(3, 2, 7, 5)
    assert (costs.trunk(rows) + costs.top(rows)).flops == pytest.approx(4 * flops)
    assert costs.trunk(rows).flops == pytest.approx(4 * freeze * flops)
    assert costs.log_probs(rows).flops == 2 * 3 * 2 * 5 * tiny.VOCABULARY * 32


PROMPTS, SAMPLES, PROMPT, RESPONSE = SIZES = Rows(3, 2, 7, 5)
PER_TOKEN = 2 * (32 * 64 + 32 * 32 + 32 * 96 + 48 * 32)  # of one block's products
PER_PAIR = 4 * 4 * 8  # of a query's and a key's heads, scores and values
BLOCK = PROMPTS * (PER_TOKEN * (7 + 2 * 6) + PER_PAIR * (7 * 7 / 2 + 2 * (6 * 7 + 6 * 6 / 2)))
HEAD = 2 * PROMPTS * SAMPLES * RESPONSE * tiny.VOCABULARY * 32


@pytest.mark.parametrize(("freeze", "heads"), [(0.0, 1 + 3), (0.5, 1 + 2)])
def test_a_gradient_costs_its_blocks_three_times_and_its_logits_again(freeze, heads):
    """Logits are made anew for the backward pass. A head that is trained has a gradient of its own."""
    costs = Costs(Model(tiny.architecture(layers=4), jnp.dtype("float32"), freeze))
    frozen, trained = 4 * freeze, 4 * (1 - freeze)
    assert costs.supervised_gradient(SIZES, log_probs=True).flops == (frozen + 3 * trained) * BLOCK + heads * HEAD
    assert costs.supervised_gradient(SIZES, log_probs=False).flops == (frozen + 3 * trained) * BLOCK


@pytest.mark.parametrize(
    ("rules", "attention", "vocab", "embed"),
    [(Rules(), 2, 2, 2), (Rules(vocab=(), kv_heads=(), embed=("data", "fsdp")), 1, 1, 4), (Rules(embed=()), 2, 2, 1)],
)
def test_a_device_moves_its_share(rules, attention, vocab, embed):
    """Of a mesh of 2 x 2 x 2: rows are divided by four, the MLP's features by two, and the rest by the rules."""
    a = tiny.architecture()
    shape = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
    with sharding._RULES(rules), jax.sharding.use_abstract_mesh(shape):
        costs = Costs(Model(a, jnp.dtype("bfloat16"), 0.5))
        decode, optimiser = costs.decode(Rows(8, 1, 100, 10)).bytes, costs.optimiser(3).bytes
    block = (32 * 64 + 32 * 32) / attention + (32 * 96 + 48 * 32) / 2
    states = 3 * (4 * 32 + (64 + 32) / attention + (96 + 48) / 2) + 32
    caches = 2 * a.layers * a.kv_heads * a.head_dim * (100 + 11) / attention
    assert decode == pytest.approx(10 * 2 * (3 * block + tiny.VOCABULARY * 32 / vocab + 8 / 4 * (states + caches)))
    assert optimiser == pytest.approx(2 * block / embed * 4 * (2 * 3 + 7))  # two of three blocks are trained


@pytest.mark.parametrize("tops", [1, 2])
def test_a_step_of_ppo_by_its_phases(tops):
    """Two of four blocks are frozen. The longest response has 3 tokens. Every row is learned from 1.5 times."""
    costs = Costs(Model(tiny.architecture(layers=4), jnp.dtype("float32"), 0.5))
    flops = costs.rollout_flops(SIZES, longest=3, epochs=1.5, tops=tops)
    prefill = 4 * PROMPTS * (PER_TOKEN * 7 + PER_PAIR * 7 * 7 / 2)
    token = PROMPTS * SAMPLES * (4 * (PER_TOKEN + PER_PAIR * (7 + 3 / 2)) + 2 * tiny.VOCABULARY * 32)
    assert flops == {
        "prefill": prefill,
        "decode": 3 * token,
        "score": (2 + tops) * 2 * BLOCK + 2 * HEAD,
        "update": 1.5 * (tops * 3 * 2 * BLOCK + 3 * HEAD),
    }
