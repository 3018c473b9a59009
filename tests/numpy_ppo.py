"""PPO in float64 NumPy, written from the papers and docs/method.md and independent of the code that it tests.

The policy is linear: from features X `[..., D]` the state X W, the logits X W E' / temperature and the value X W v + c,
or X U v + c where the value function has a top U of its own. That is enough for every equation of PPO, and its
gradients are a few lines by hand. Cells are walked one by one where a formula has an index.

Shape letters: B prompts, N responses, R response length, D features, E state width, V vocabulary.
"""

import dataclasses
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]  # "policy" [D, E], "kernel" [E] and, where there are, "bias" [], "value" [D, E]


@dataclasses.dataclass
class Sampled:
    """One rollout's inputs: features `[B, N, R + 1, D]`, tokens and mask `[B, N, R]`, finished `[B, N]`."""

    features: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    finished: np.ndarray
    table: np.ndarray  # [V, E]


def forward(weights: Weights, sampled: Sampled, temperature: float) -> dict[str, np.ndarray]:
    """Log-probs of all tokens `[B, N, R, V]`, of the sampled ones, entropies and values `[B, N, R]`."""
    features = sampled.features[:, :, :-1]
    logits = features @ weights["policy"] @ sampled.table.T / temperature
    shifted = logits - logits.max(axis=-1, keepdims=True)
    every = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(every, sampled.tokens[..., None], axis=-1)[..., 0]
    entropy = -(np.exp(every) * every).sum(axis=-1)
    states = features @ weights.get("value", weights["policy"])
    return {
        "every": every,
        "log_probs": chosen,
        "entropy": entropy,
        "states": states,
        "values": states @ weights.get("kernel", np.zeros(states.shape[-1])) + weights.get("bias", 0.0),
    }


def score(weights: Weights, sampled: Sampled) -> np.ndarray:
    """A reward model's raw score `[B, N]`, read at the last token of each response."""
    scores = np.zeros(sampled.finished.shape)
    for b, n in np.ndindex(scores.shape):
        length = int(sampled.mask[b, n].sum())
        scores[b, n] = sampled.features[b, n, length] @ weights["policy"] @ weights["kernel"]
    return scores


def advantages(settings: Any, rewards: np.ndarray, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Raw advantages, those the losses see, and returns: GAE from the end of each response to its start."""
    raw, returns = np.zeros(mask.shape), np.zeros(mask.shape)
    for b, n in np.ndindex(mask.shape[:2]):
        running, following = 0.0, 0.0
        for t in reversed(range(int(mask[b, n].sum()))):
            delta = rewards[b, n, t] + settings.gamma * following - values[b, n, t]
            running = delta + settings.gamma * settings.gae_lambda * running
            following = values[b, n, t]
            raw[b, n, t], returns[b, n, t] = running, running + values[b, n, t]
    if settings.paper.whiten_microbatches:
        return raw, raw, returns
    real = raw[mask]
    return raw, np.where(mask, (raw - real.mean()) / real.std(), 0.0), returns


def evaluate(
    settings: Any,
    weights: Weights,
    reference: Weights,
    reward: Weights,
    mean: float,
    std: float,
    coefficient: float,
    sampled: Sampled,
) -> dict[str, np.ndarray]:
    """All that the updates need of a rollout."""
    mask = sampled.mask
    now, then = (forward(w, sampled, settings.temperature) for w in (weights, reference))
    difference = np.where(mask, then["log_probs"] - now["log_probs"], 0.0)
    kl = {"k1": -difference, "k2": difference**2 / 2, "k3": np.exp(difference) - 1 - difference}
    scores = (score(reward, sampled) - mean) / std * settings.score_scale
    if settings.score_clip:
        scores = np.clip(scores, -settings.score_clip, settings.score_clip)
    scores = scores - settings.length_penalty * mask.sum(axis=-1)
    scores = scores - np.where(sampled.finished, 0.0, settings.missing_eos_penalty)
    rewards, objective = np.zeros(mask.shape), []
    for b, n in np.ndindex(mask.shape[:2]):
        penalties = coefficient * kl[settings.kl_estimator][b, n]
        rewards[b, n, int(mask[b, n].sum()) - 1] = scores[b, n]
        if settings.kl_in == "reward":
            rewards[b, n] -= penalties
        objective.append(scores[b, n] - penalties.sum())
    if settings.whiten_rewards:
        rewards = np.where(mask, rewards / rewards[mask].std(), 0.0)
    raw, seen, returns = advantages(settings, rewards, now["values"], mask)
    return {
        "log_probs": now["log_probs"],
        "reference": then["log_probs"],
        "values": now["values"],
        "rewards": rewards,
        "raw": raw,
        "advantages": seen,
        "returns": returns,
        "objective": np.mean(objective),
        "kl": kl["k1"].sum(axis=-1).mean(),
    }


def gradients(
    settings: Any, weights: Weights, coefficient: float, sampled: Sampled, rollout: dict[str, np.ndarray]
) -> tuple[Weights, dict[str, float]]:
    """Summed gradients over the tokens of some prompts, and sums of the loss, of KL(old || new) by k3, and tokens."""
    now = forward(weights, sampled, settings.temperature)
    total = {name: np.zeros_like(array) for name, array in weights.items()}
    sums = {"loss": 0.0, "approximate_kl": 0.0, "tokens": 0.0}
    seen = rollout["advantages"]
    if settings.paper.whiten_microbatches:
        seen = (seen - seen.mean()) / (1e-8 + seen.std(ddof=1))
    clip = settings.cliprange
    for b, n, t in np.argwhere(sampled.mask):
        cell = {name: array[b, n, t] for name, array in rollout.items() if np.ndim(array) == 3}
        x, log_prob, value = sampled.features[b, n, t], now["log_probs"][b, n, t], now["values"][b, n, t]
        every, entropy, advantage = now["every"][b, n, t], now["entropy"][b, n, t], seen[b, n, t]

        ratio = np.exp(log_prob - cell["log_probs"])
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        loss = -min(ratio * advantage, bounded * advantage)
        by_log_prob = -advantage * ratio if ratio * advantage <= bounded * advantage else 0.0
        if settings.kl_in == "loss":
            r = cell["reference"] - log_prob
            loss += coefficient * {"k2": r * r / 2, "k3": np.exp(r) - 1 - r}[settings.kl_estimator]
            by_log_prob += coefficient * {"k2": -r, "k3": 1 - np.exp(r)}[settings.kl_estimator]
        probabilities = np.exp(every)
        onehot = np.eye(len(every))[sampled.tokens[b, n, t]]
        by_logits = by_log_prob * (onehot - probabilities)
        loss -= settings.entropy_coef * entropy
        by_logits += settings.entropy_coef * probabilities * (every + entropy)
        total["policy"] += np.outer(x, by_logits @ sampled.table / settings.temperature)

        moved = value - cell["values"]
        near = cell["values"] + min(max(moved, -settings.cliprange_value), settings.cliprange_value)
        errors = value - cell["returns"], near - cell["returns"]
        loss += settings.vf_coef * max(errors[0] ** 2, errors[1] ** 2) / 2
        if abs(errors[0]) >= abs(errors[1]):
            by_value = errors[0]
        else:
            by_value = errors[1] if abs(moved) < settings.cliprange_value else 0.0
        by_value *= settings.vf_coef
        total["kernel"] += by_value * now["states"][b, n, t]
        if "bias" in total:
            total["bias"] += by_value
        total["value" if "value" in total else "policy"] += np.outer(x, by_value * weights["kernel"])

        sums["loss"] += loss
        sums["approximate_kl"] += ratio - 1 - (log_prob - cell["log_probs"])
        sums["tokens"] += 1
    return total, sums


class Adam:
    """AdamW by its paper's Algorithm 2, behind clipping to a global norm. Only matrices decay."""

    def __init__(self, config: Any, weights: Weights) -> None:
        self.config, self.count = config, 0
        self.first, self.second = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))

    def update(self, weights: Weights, gradients: Weights) -> Weights:
        c = self.config
        self.count += 1
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        if c.clip_norm:
            gradients = {name: g * min(1.0, c.clip_norm / norm) for name, g in gradients.items()}
        after = {}
        for name, g in gradients.items():
            self.first[name] = c.beta1 * self.first[name] + (1 - c.beta1) * g
            self.second[name] = c.beta2 * self.second[name] + (1 - c.beta2) * g**2
            mean = self.first[name] / (1 - c.beta1**self.count)
            root = np.sqrt(self.second[name] / (1 - c.beta2**self.count))
            decay = c.weight_decay * weights[name] if weights[name].ndim >= 2 else 0.0
            after[name] = weights[name] - c.learning_rate * (mean / (root + c.epsilon) + decay)
        return after


def update(
    settings: Any,
    weights: Weights,
    coefficient: float,
    sampled: Sampled,
    rollout: dict[str, np.ndarray],
    adam: Adam,
    minibatches: np.ndarray,
    microbatch: int,
    warming: bool,
) -> tuple[Weights, dict[str, Any]]:
    """All updates of one rollout: `num_mini_batches` `[updates, prompts]` are the prompts of each, in turn."""
    logged: dict[str, list[float]] = {"loss": [], "gradient_norm": [], "approximate_kl": []}
    for prompts in minibatches:
        now = rollout
        if settings.paper.recompute_advantages:
            values = forward(weights, sampled, settings.temperature)["values"]
            _, seen, returns = advantages(settings, rollout["rewards"], values, sampled.mask)
            now = {**rollout, "advantages": seen, "returns": returns}
        total = {name: np.zeros_like(array) for name, array in weights.items()}
        sums = dict.fromkeys(("loss", "approximate_kl", "tokens"), 0.0)
        for rows in prompts.reshape(-1, microbatch):
            part = Sampled(
                *(array[rows] for array in (sampled.features, sampled.tokens, sampled.mask, sampled.finished)),
                sampled.table,
            )
            cells = {name: array[rows] for name, array in now.items() if np.ndim(array) == 3}
            one, add = gradients(settings, weights, coefficient, part, cells)
            total = {name: total[name] + one[name] for name in total}
            sums = {name: sums[name] + add[name] for name in sums}
        if settings.target_kl and sums["approximate_kl"] / sums["tokens"] > settings.target_kl:
            break
        count = sampled.mask[prompts].size if settings.paper.divide_by_cells else sums["tokens"]
        of_value = {"kernel", "bias", "value"}
        mean = {name: g / count * (name in of_value or not warming) for name, g in total.items()}
        after = adam.update(weights, mean)
        weights = {name: after[name] if name in of_value or not warming else weights[name] for name in weights}
        logged["loss"].append(sums["loss"] / sums["tokens"])
        logged["gradient_norm"].append(np.sqrt(sum((g**2).sum() for g in mean.values())))
        logged["approximate_kl"].append(sums["approximate_kl"] / sums["tokens"])
    metrics = {name: np.mean(values) for name, values in logged.items()}
    return weights, {**metrics, "updates": len(logged["loss"])}
