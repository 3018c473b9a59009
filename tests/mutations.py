"""Whether the tests notice: breaks one guarded line at a time in a copy and runs the tests that guard it.

    python -m tests.mutations

Each mutation is a mistake that published code has made, or would be natural to make. The table of which test caught
which goes into `tests/mutations.md`; a mutation that no test catches is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("rlhf_jax", "tests", "configs", "benchmarks", "pyproject.toml")


class Mutation(NamedTuple):
    """One guarded line (or a part of it), what it becomes, and the tests that are to fail then.

    Attributes:
      mistake: in words.
      path: of the file, below `rlhf_jax`.
      before: text that occurs once in it.
      after: what stands there instead.
      tests: arguments of pytest.
    """

    mistake: str
    path: str
    before: str
    after: str
    tests: str


AGAINST_NUMPY = "tests/rl/test_ppo_against_numpy.py"

MUTATIONS = (
    Mutation(
        "advantages are whitened over padding too",
        "ops.py",
        "return (x - masked_mean(x, mask)) * jax.lax.rsqrt(masked_variance(x, mask) + epsilon) * mask",
        "return (x - x.mean()) * jax.lax.rsqrt(x.var() + epsilon) * mask",
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "the masked mean divides by all cells",
        "ops.py",
        "jnp.maximum(jnp.sum(mask), 1)",
        "x.size",
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "the score lands on the last cell instead of the last token",
        "ops.py",
        "at_end = jnp.arange(mask.shape[-1]) == last_index(mask)[..., None]",
        "at_end = jnp.arange(mask.shape[-1]) == mask.shape[-1] - 1",
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "GAE looks at the value of the token before",
        "ops.py",
        "[values[..., 1:], jnp.zeros_like(values[..., :1])]",
        "[jnp.zeros_like(values[..., :1]), values[..., :-1]]",
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "the value after a response's end is bootstrapped from padding",
        "ops.py",
        "    values = jnp.where(mask, values, 0.0)\n",
        "",
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "k1 has the wrong sign",
        "ops.py",
        '"k1": lambda: -r',
        '"k1": lambda: r',
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "k3 is taken of the reverse ratio",
        "ops.py",
        "jnp.expm1(r) - r}",
        "jnp.expm1(-r) + r}",
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "log-probs ignore the temperature of sampling",
        "ops.py",
        "preferred_element_type=jnp.float32) / temperature",
        "preferred_element_type=jnp.float32)",
        "tests/rl/test_ops.py",
    ),
    Mutation(
        "padded vocabulary rows enter the softmax",
        "ops.py",
        "        logits = mask_unknown(logits, ids)\n",
        "",
        "tests/models/test_vocabulary.py tests/rl/test_ops.py",
    ),
    Mutation(
        "the clipped surrogate takes the smaller loss",
        "losses.py",
        "jnp.maximum(unclipped, clipped)",
        "jnp.minimum(unclipped, clipped)",
        "tests/rl/test_losses.py",
    ),
    Mutation(
        "the value loss is clipped around the return",
        "losses.py",
        "near = old_values + jnp.clip(values - old_values, -clip, clip)",
        "near = returns + jnp.clip(values - returns, -clip, clip)",
        "tests/rl/test_losses.py",
    ),
    Mutation(
        "the reward model prefers the rejected response",
        "losses.py",
        "margin = scores[:, 0] - scores[:, 1]",
        "margin = scores[:, 1] - scores[:, 0]",
        "tests/rl/test_losses.py",
    ),
    Mutation(
        "filler pairs count in the loss",
        "losses.py",
        "jnp.sum(jax.nn.softplus(-margin) * weight)",
        "jnp.sum(jax.nn.softplus(-margin))",
        "tests/rl/test_losses.py",
    ),
    Mutation(
        "cross-entropy reads padding",
        "losses.py",
        "-jnp.sum(jnp.where(mask, log_probs, 0.0))",
        "-jnp.sum(log_probs)",
        "tests/rl/test_losses.py",
    ),
    Mutation(
        "a response that ended is fined for a missing EOS",
        "rl/rewards.py",
        "settings.missing_eos_penalty * ~finished",
        "settings.missing_eos_penalty * finished",
        "tests/rl/test_rewards.py",
    ),
    Mutation(
        "the KL penalty is a bonus",
        "rl/rewards.py",
        "rewards = rewards - penalty",
        "rewards = rewards + penalty",
        "tests/rl/test_rewards.py",
    ),
    Mutation(
        "the adaptive coefficient moves away from its target",
        "rl/rewards.py",
        "kl / settings.kl_target - 1.0",
        "1.0 - kl / settings.kl_target",
        "tests/rl/test_rewards.py",
    ),
    Mutation(
        "the value is read after the token instead of before it",
        "models/roles.py",
        'linear = _linear(hidden[:, :, :-1], head["kernel"])',
        'linear = _linear(hidden[:, :, 1:], head["kernel"])',
        "tests/models/test_heads.py",
    ),
    Mutation(
        "the reward is read one token early",
        "models/roles.py",
        "last = sequences.response_mask.sum(axis=-1)  #",
        "last = sequences.response_mask.sum(axis=-1) - 1  #",
        "tests/models/test_heads.py",
    ),
    Mutation(
        "positions count padding",
        "sequences.py",
        "return jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)",
        "return jnp.broadcast_to(jnp.arange(mask.shape[-1], dtype=jnp.int32), mask.shape)",
        "tests/models/test_transformer.py",
    ),
    Mutation(
        "the EOS is left out of the mask",
        "sampler.py",
        "mask=write(state.mask, alive),",
        "mask=write(state.mask, alive & (token != eos_id)),",
        "tests/sampling/test_sampler.py",
    ),
    Mutation(
        "a sample's random numbers depend on its place in the batch",
        "sampler.py",
        "jax.random.fold_in(key, i))(prompt_ids)",
        "jax.random.fold_in(key, i))(jnp.arange(batch))",
        "tests/sampling/test_sampler.py",
    ),
    Mutation(
        "log-probs are those of the distribution cut to the top k",
        "sampler.py",
        "        uniform = jax.vmap(jax.vmap(",
        "        logits = ops.keep_largest(logits, top_k) if top_k else logits\n        uniform = jax.vmap(jax.vmap(",
        "tests/sampling/test_sampler.py",
    ),
    Mutation(
        "the last sampled token is never fed, so its state is missing",
        "sampler.py",
        "    _, states, _ = run_trunk(final)  #",
        "    states = final.states  #",
        "tests/sampling/test_sampler.py",
    ),
    Mutation(
        "old log-probs are computed anew in each epoch",
        "rl/objective.py",
        "losses.clipped_policy(log_probs, rollout.log_probs, advantages",
        "losses.clipped_policy(log_probs, jax.lax.stop_gradient(log_probs), advantages",
        AGAINST_NUMPY,
    ),
    Mutation(
        "losses are divided by cells, so padding shrinks them",
        "rl/programs.py",
        "count = chosen.rewards.size if settings.paper.divide_by_cells else tokens",
        "count = chosen.rewards.size",
        AGAINST_NUMPY,
    ),
    Mutation(
        "the score of the policy is used raw",
        "rl/programs.py",
        "scores = (scores - mean) / deviation",
        "scores = scores * 1.0",
        AGAINST_NUMPY,
    ),
    Mutation(
        "advantages are those of the microbatch's own statistics",
        "rl/objective.py",
        "return advantages if settings.paper.whiten_microbatches else",
        "return advantages if not settings.paper.whiten_microbatches else",
        AGAINST_NUMPY,
    ),
    Mutation(
        "only the last microbatch's gradients count",
        "training/update.py",
        "return jax.tree.map(jnp.add, total, gradients), {",
        "return gradients, {",
        "tests/training/test_state.py",
    ),
    Mutation(
        "the data position stands still",
        "training/update.py",
        "position=self.position + examples",
        "position=self.position",
        "tests/training/test_loop.py",
    ),
    Mutation(
        "the reference follows the policy",
        "ppo.py",
        "reference = start if state.reference is None else state.reference",
        "reference = policy_of(state)",
        "tests/stages/test_ppo.py -k starts_on_its_reference",
    ),
    Mutation(
        "prompt and response are tokenised apart",
        "data/tokenizer.py",
        'joined = _encode(tokenizer, f"{prompt}{separator}{response}") if response else prompt_ids',
        'joined = prompt_ids + _encode(tokenizer, f"{separator}{response}")',
        "tests/data/test_tokenizer.py",
    ),
    Mutation(
        "a prompt cut on the left loses its BOS",
        "data/tokenizer.py",
        "start = ids[:1] if ids[0] == tokenizer.bos_token_id else []",
        "start = []",
        "tests/data/test_tokenizer.py",
    ),
    Mutation(
        "padding is masked by its id",
        "data/batches.py",
        "    mask[: len(tokens)] = True\n",
        "    mask[: len(tokens)] = [token != ids[-1] for token in tokens]\n",
        "tests/data/test_batches.py",
    ),
    Mutation(
        "best-of-n counts subsets with replacement",
        "evaluation/pools.py",
        "log_share = _log_choose(ranks, n - 1) - _log_choose(np.array(size), n)",
        "log_share = np.log(((ranks + 1) / size) ** n - (ranks / size) ** n)",
        "tests/metrics/test_best_of_n.py",
    ),
    Mutation(
        "a resumed run appends to the lines of the steps that it lost",
        "training/metrics.py",
        "(metrics, _), (timing, lost) = (_cut_back(path, resume_step) for path in paths)",
        "metrics, timing, lost = [], [], []",
        "tests/training/test_metrics_log.py tests/training/test_loop.py",
    ),
    Mutation(
        "what was computed by microbatches comes back in another order",
        "training/update.py",
        "jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])",
        "x.reshape(-1, *x.shape[2:])",
        "tests/training/test_state.py",
    ),
    Mutation(
        "a half-written checkpoint counts",
        "training/checkpoint.py",
        'return all((folder / name).exists() for name in (*_ITEMS, "_CHECKPOINT_METADATA"))',
        "return folder.exists()",
        "tests/training/test_checkpoint.py",
    ),
    Mutation(
        "a top is put on any trunk",
        "runs.py",
        'if meta["trunk"] != base.fingerprint:',
        "if False:",
        "tests/training/test_load.py",
    ),
    Mutation(
        "a NaN is trained on",
        "training/loop.py",
        "if not math.isfinite(metrics[name]):",
        "if False:",
        "tests/training/test_loop.py",
    ),
)


def broken_copy(mutation: Mutation, folder: Path) -> None:
    """The project in `folder`, with one line broken.

    Raises:
      ValueError: the text does not occur exactly once.
    """
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    path = folder / "rlhf_jax" / mutation.path
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise ValueError(
            f"{mutation.path} holds {mutation.before!r} {text.count(mutation.before)} times, expected once"
        )
    path.write_text(text.replace(mutation.before, mutation.after))


def caught_by(mutation: Mutation) -> str | None:
    """The test that fails, or None."""
    with tempfile.TemporaryDirectory(prefix="rlhf_jax-mutation-") as folder:
        broken_copy(mutation, Path(folder))
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *mutation.tests.split()]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    failed = re.search(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
    if result.returncode == 1 and failed:
        return failed[1]
    if result.returncode != 0:
        raise RuntimeError(f"{mutation.mistake}: the tests did not run\n{result.stdout}\n{result.stderr}")
    return None


def table(caught: dict[Mutation, str | None]) -> str:
    """`tests/mutations.md`."""
    lines = [
        "# What the tests notice",
        "",
        "`make mutations` breaks one line at a time in a copy of the project and runs the tests that guard it "
        f"([mutations.py](mutations.py)). {sum(map(bool, caught.values()))} of {len(caught)} were caught.",
        "",
        "| the mistake | where | caught by |",
        "| --- | --- | --- |",
    ]
    for mutation, test in caught.items():
        name = f"`{test.partition('[')[0]}`" if test else "**nothing**"
        lines.append(f"| {mutation.mistake} | `{mutation.path}` | {name} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs all mutations, writes the table, and returns 1 if one was not caught."""
    caught: dict[Mutation, str | None] = {}
    for number, mutation in enumerate(MUTATIONS, start=1):
        caught[mutation] = caught_by(mutation)
        print(f"[{number}/{len(MUTATIONS)}] {mutation.mistake}: {caught[mutation] or 'NOT CAUGHT'}", flush=True)
    (ROOT / "tests" / "mutations.md").write_text(table(caught))
    return int(None in caught.values())


if __name__ == "__main__":
    sys.exit(main())
