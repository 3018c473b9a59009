"""The two jitted programs of a PPO step after sampling: one makes the rollout, the other updates the policy.

Every equation is in docs/method.md, every setting in `rl.ppo_config`. Neither program runs the trunk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rlhf_jax.models import heads
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge, Model, Params, merge
from rlhf_jax.parallel.jit import jit, jit_step
from rlhf_jax.rl import masked
from rlhf_jax.rl.advantages import explained_variance, gae, whiten_advantages
from rlhf_jax.rl.kl_penalty import current_kl_coef, kl_estimate, kl_penalty, next_kl_coef
from rlhf_jax.rl.ppo_config import Algorithm
from rlhf_jax.rl.ppo_loss import policy_and_value, ppo_loss
from rlhf_jax.rl.rewards import place_score, shaped_scores, token_rewards
from rlhf_jax.rl.rollout import Rollout
from rlhf_jax.sampling.sampler import Sampled
from rlhf_jax.training.state import State, over_microbatches, summed_gradients


@flax.struct.dataclass
class PolicyState(State):
    """A run's state with PPO's additions.

    Attributes:
      kl_coefficient: scalar float32, the current beta. None if it is fixed.
      reference: the current reference top. None if it stays the initial one.
    """

    kl_coefficient: jax.Array | None
    reference: Params | None


def make_evaluate_rollout(model: Model, settings: Algorithm, microbatch: int) -> Callable[..., Any]:
    """`(trunk, top, reference, reward, mean, std, kl_coefficient, sampled) -> (Rollout, metrics)`, jitted.

    `reference` and `reward` are tops on the same trunk. `mean` and `std` normalise the reward model's scores.
    `kl_coefficient` is the state's.
    """

    def evaluate(
        trunk: Params,
        top: Params,
        reference: Params,
        reward: Params,
        mean: jax.Array,
        std: jax.Array,
        kl_coefficient: jax.Array | None,
        sampled: Sampled,
    ) -> tuple[Rollout, dict[str, jax.Array]]:
        def forward(rows: tuple[Sequences, Edge]) -> tuple[jax.Array, ...]:
            sequences, edge = rows
            log_probs, entropy, values = policy_and_value(model, trunk, top, sequences, edge, settings.temperature)
            hidden = model.top(merge(trunk, reference), sequences, edge)
            expected, _ = heads.log_probs(model, merge(trunk, reference), sequences, hidden, settings.temperature)
            scores = heads.score_edge(model, trunk, reward, sequences, edge)
            return log_probs, entropy, values, expected, scores

        sequences, edge = sampled.sequences, sampled.edge
        log_probs, entropy, values, expected, scores = over_microbatches(forward, (sequences, edge), microbatch)
        mask = sequences.response_mask
        lengths = mask.sum(axis=-1)
        scores = (scores - mean) / std
        shaped = shaped_scores(settings, scores, sampled.finished, lengths)
        kl = {k: jnp.where(mask, kl_estimate(log_probs, expected, k), 0.0) for k in ("k1", "k3")}
        beta = current_kl_coef(settings, kl_coefficient)
        penalty = kl_penalty(beta, log_probs, expected, mask, settings.kl_estimator)
        rewards = token_rewards(settings, shaped, penalty, mask)
        advantages, returns = gae(rewards, values, mask, settings.gamma, settings.gae_lambda)
        rollout = Rollout(
            sequences=sequences,
            edge=edge,
            scores=scores,
            log_probs=log_probs,
            reference_log_probs=expected,
            values=values,
            rewards=rewards,
            advantages=whiten_advantages(settings, advantages, mask),
            returns=returns,
        )
        difference = jnp.where(mask, jnp.abs(log_probs - sampled.log_probs), 0.0)
        metrics = {
            "score": scores.mean(),
            "score_std": scores.std(),
            "objective": (place_score(shaped, mask) - penalty).sum(axis=-1).mean(),
            "kl_k1": kl["k1"].sum(axis=-1).mean(),
            "kl_k3": kl["k3"].sum(axis=-1).mean(),
            "kl_coefficient": jnp.float32(beta),
            "entropy": masked.mean(entropy, mask),
            "length": lengths.mean(),
            "length_std": lengths.std(),
            "finished": sampled.finished.mean(),
            "advantage_mean": masked.mean(advantages, mask),
            "advantage_std": jnp.sqrt(masked.variance(advantages, mask)),
            "advantage_max": jnp.max(jnp.where(mask, advantages, -jnp.inf)),
            "advantage_min": jnp.min(jnp.where(mask, advantages, jnp.inf)),
            "explained_variance": explained_variance(values, returns, mask),
            "sampler_difference": masked.mean(difference, mask),
            "sampler_difference_max": difference.max(),
        }
        return rollout, metrics

    return jit(evaluate)


def make_update(
    model: Model, settings: Algorithm, transform: optax.GradientTransformation, microbatch: int
) -> Callable[..., Any]:
    """`(state, trunk, rollout, key) -> (state, metrics)`, jitted: all epochs and minibatches of one rollout.

    Metrics are means over the updates. `first_ratio_error` and `first_kl` are those of the first minibatch, which must
    be 0 up to rounding. The state is donated.
    """

    def revalued(state: PolicyState, trunk: Params, rollout: Rollout) -> Rollout:
        """The rollout with advantages and returns of the value function as it is now."""

        def values_of(rows: tuple[Sequences, Edge]) -> jax.Array:
            return policy_and_value(model, trunk, state.top, *rows, settings.temperature)[2]

        mask = rollout.sequences.response_mask
        values = over_microbatches(values_of, (rollout.sequences, rollout.edge), microbatch)
        advantages, returns = gae(rollout.rewards, values, mask, settings.gamma, settings.gae_lambda)
        return rollout.replace(advantages=whiten_advantages(settings, advantages, mask), returns=returns)

    def update(
        state: PolicyState, trunk: Params, rollout: Rollout, key: jax.Array
    ) -> tuple[PolicyState, dict[str, jax.Array]]:
        prompts = rollout.sequences.prompt.shape[0]
        warming = state.step < settings.value_warmup_steps

        def attempt(state: PolicyState, rows: jax.Array) -> tuple[PolicyState, dict[str, jax.Array]]:
            """One optimiser update, unless its minibatch shows that the policy has gone too far."""
            valued = revalued(state, trunk, rollout) if settings.paper.recompute_advantages else rollout
            # All rows in another order are the same rows, and would be moved between devices for nothing; but for the
            # quirk that cares which rows share a microbatch.
            all_rows = settings.num_mini_batches == 1 and not settings.paper.whiten_microbatches
            chosen = valued if all_rows else jax.tree.map(lambda x: x[rows], valued)
            loss = partial(ppo_loss, model, settings, trunk, current_kl_coef(settings, state.kl_coefficient))
            gradients, parts = summed_gradients(loss, state.top, chosen, microbatch)
            largest, smallest = parts.pop("ratio_max").max(), parts.pop("ratio_min").min()
            tokens = parts.pop("tokens").sum()
            metrics = {name: part.sum() / tokens for name, part in parts.items()}
            count = chosen.rewards.size if settings.paper.divide_by_cells else tokens
            gradients = jax.tree.map(lambda g: g / count, gradients)
            if settings.value_warmup_steps:
                gradients = but_value(warming, jax.tree.map(jnp.zeros_like, gradients), gradients)
            metrics |= {
                "ratio_max": largest,
                "ratio_min": smallest,
                "gradient_norm": optax.global_norm(gradients),
                "value_gradient_norm": optax.global_norm(gradients["value"]),
            }
            after = state.updated(gradients, transform)
            if settings.value_warmup_steps:  # a weight decays without a gradient too
                after = after.replace(top=but_value(warming, state.top, after.top))
            if settings.target_kl:
                metrics["made"] = ~(metrics["approximate_kl"] > settings.target_kl)  # NaN is made, and then seen
                after = jax.tree.map(partial(jnp.where, metrics["made"]), after, state)
            return after, metrics

        def minibatch(
            carry: tuple[PolicyState, jax.Array], rows: jax.Array
        ) -> tuple[tuple[PolicyState, jax.Array], dict[str, jax.Array]]:
            """`attempt` until one was not made, and nothing from then on."""
            nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(attempt, carry[0], rows)[1])
            state, metrics = jax.lax.cond(carry[1], attempt, lambda state, rows: (state, nothing), carry[0], rows)
            return (state, metrics["made"]), metrics

        orders = [jax.random.permutation(k, prompts) for k in jax.random.split(key, settings.num_ppo_epochs)]
        rows = jnp.stack(orders).reshape(settings.num_ppo_epochs * settings.num_mini_batches, -1)
        if settings.target_kl:
            (state, _), metrics = jax.lax.scan(minibatch, (state, jnp.bool(True)), rows)
            made = metrics.pop("made")
        else:
            state, metrics = jax.lax.scan(attempt, state, rows)
            made = jnp.ones(len(rows), bool)
        first = jnp.maximum(metrics["ratio_max"][0] - 1.0, 1.0 - metrics["ratio_min"][0])
        first_kl = metrics["approximate_kl"][0]
        largest = jnp.max(jnp.where(made, metrics.pop("ratio_max"), 1.0))
        smallest = jnp.min(jnp.where(made, metrics.pop("ratio_min"), 1.0))
        metrics = {name: jnp.mean(values, where=made) for name, values in metrics.items()}
        metrics |= {"ratio_max": largest, "ratio_min": smallest, "first_ratio_error": first, "first_kl": first_kl}
        metrics |= {"updates": made.sum(), "parameter_norm": optax.global_norm(state.top)}
        if settings.kl_target:
            kl = rollout.kl("k1")
            state = state.replace(kl_coefficient=next_kl_coef(settings, state.kl_coefficient, kl.mean(), kl.size))
        return state.advanced(prompts), metrics

    return jit_step(update)


def but_value(condition: jax.Array, chosen: Params, tree: Params) -> Params:
    """Replaces all but the value function in `tree`, a top or its gradients, by `chosen` if the condition holds."""
    parts = {name: jax.tree.map(partial(jnp.where, condition), chosen[name], tree[name]) for name in tree}
    return {**parts, "value": tree["value"]}
