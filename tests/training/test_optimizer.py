"""AdamW against the textbook in float64, clipping, the decay mask, and the schedules' corner values."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.training.optimizer import Config, learning_rate_at, make_optimizer, warn_of_warmup

FULL = Config(
    learning_rate=0.01,
    schedule="linear",
    warmup_steps=2,
    weight_decay=0.1,
    beta1=0.8,
    beta2=0.95,
    epsilon=1e-6,
    clip_norm=1.5,
)


def textbook_adamw(config: Config, params: dict, gradients: list[dict], total_steps: int) -> dict:
    """Loshchilov and Hutter, 2019, algorithm 2, with the gradient clipped by its global norm first."""
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for step, gradient in enumerate(gradients):
        norm = math.sqrt(sum(float((value**2).sum()) for value in gradient.values()))
        scale = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        rate = learning_rate_at(config, total_steps, step)
        for name, value in gradient.items():
            value = value * scale
            first[name] = config.beta1 * first[name] + (1 - config.beta1) * value
            second[name] = config.beta2 * second[name] + (1 - config.beta2) * value**2
            corrected = first[name] / (1 - config.beta1 ** (step + 1))
            root = np.sqrt(second[name] / (1 - config.beta2 ** (step + 1)))
            decay = config.weight_decay if params[name].ndim >= 2 else 0.0
            params = params | {name: params[name] - rate * (corrected / (root + config.epsilon) + decay * params[name])}
    return params


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.0}, {"schedule": "constant", "weight_decay": 0.0}])
def test_equals_the_textbook(changes: dict) -> None:
    config = dataclasses.replace(FULL, **changes)
    random = np.random.default_rng(0)
    params = {"w": random.normal(size=(3, 4)), "bias": random.normal(size=4)}
    gradients = [{name: random.normal(size=value.shape) for name, value in params.items()} for _ in range(6)]
    optimizer = make_optimizer(config, total_steps=6)
    actual = jax.tree.map(jnp.float32, params)
    state = optimizer.init(actual)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, actual)
        actual = optax.apply_updates(actual, updates)
    expected = textbook_adamw(config, params, gradients, total_steps=6)
    for name in params:
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=2e-6)


def test_the_schedules_corner_values() -> None:
    def rates(schedule: str, warmup: int) -> list[float]:
        config = Config(learning_rate=1.0, schedule=schedule, warmup_steps=warmup)
        return [learning_rate_at(config, 10, step) for step in range(11)]

    assert rates("constant", 0) == [1.0] * 11
    np.testing.assert_allclose(rates("constant", 4), [0.2, 0.4, 0.6, 0.8] + [1.0] * 7, rtol=1e-6)
    np.testing.assert_allclose(rates("linear", 0), np.linspace(1, 0, 11), atol=1e-6)
    np.testing.assert_allclose(rates("linear", 4)[4:], np.linspace(1, 0, 7), atol=1e-6)
    cosine = rates("cosine", 4)
    np.testing.assert_allclose(cosine[4:], [(1 + math.cos(math.pi * i / 6)) / 2 for i in range(7)], atol=1e-6)
    assert all(rate > 0 for rate in cosine[:10])


@pytest.mark.parametrize(("warmup", "total", "warned"), [(0, 1, False), (9, 10, False), (10, 10, True), (99, 10, True)])
def test_a_schedule_that_never_leaves_its_warmup_warns(warmup: int, total: int, warned: bool, capsys) -> None:
    config = Config(learning_rate=0.5, warmup_steps=warmup)
    warn_of_warmup(config, total)
    reached = max(learning_rate_at(config, total, step) for step in range(total)) == pytest.approx(0.5)
    assert reached is not warned
    assert capsys.readouterr().out.startswith("warning: config.optimizer.warmup_steps is") is warned


def test_only_matrices_decay() -> None:
    qkv = {"kernel": jnp.ones((2, 1, 3, 2)), "bias": jnp.ones((1, 3, 2))}
    mlp = {"gate_up": jnp.ones((2, 2, 4)), "gate_up_bias": jnp.ones((2, 4))}
    params = {"layers": {"w": jnp.ones((2, 2)), "norm": jnp.ones(2), "qkv": qkv, "mlp": mlp}, "scale": jnp.ones(())}
    optimizer = make_optimizer(dataclasses.replace(FULL, weight_decay=0.5), 4)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    assert (updates["layers"]["w"] < 0).all()
    assert (updates["layers"]["qkv"]["kernel"] < 0).all()
    assert (updates["layers"]["mlp"]["gate_up"] < 0).all()
    assert not updates["layers"]["norm"].any()
    assert not updates["layers"]["qkv"]["bias"].any(), "heads make a bias an array of three axes"
    assert not updates["layers"]["mlp"]["gate_up_bias"].any()
    assert not updates["scale"].any()
