"""Stage `reward_vs_kl`: reward against KL, of PPO's checkpoints and of best-of-n.

Best-of-n comes from pools of samples of the policy that PPO started from, for every n at once. PPO's points are
samples that its stage writes during training, with their KL to that policy. All are of the same prompts, so the
comparison at equal KL is paired.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rlhf_jax.config import Seed, content_of
from rlhf_jax.data.records import Samples, read_by_split
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_together
from rlhf_jax.metrics.best_of_n import best_of_n_estimates, best_of_n_kl, best_of_n_values
from rlhf_jax.metrics.statistics import mean_and_error, percentiles
from rlhf_jax.report import plots
from rlhf_jax.report.svg import standalone
from rlhf_jax.stages.inputs import Input

RESAMPLES = 2000
ESTIMATORS = ("kl_k1", "kl_k3")

type Records = dict[str, dict[str, Samples]]  # of one file: by split, then id


@dataclass(frozen=True)
class Config:
    """Settings of the stage.

    Attributes:
      stage: "reward_vs_kl".
      title: of the plots.
      pools: name to a samples.jsonl with rewards, drawn from the policy that PPO started from.
      policies: name to the folder of a ppo run with `evaluate_prompts`, against the same reward model.
      seed: of the bootstrap.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("reward_vs_kl.json", "reward_vs_kl-*.svg")

    stage: str
    title: str
    pools: dict[str, str] = content_of("data")
    policies: dict[str, str]
    seed: Seed


def check(config: Config) -> None:
    """Raises UserError if there is nothing to compare."""
    if not config.pools or not config.policies:
        raise UserError("config.pools or config.policies is empty, expected at least one of each")


def also_reads(config: Config) -> Iterator[Input]:
    """The runs whose samples are read."""
    yield from (Input(f"policies.{name}", "run", folder) for name, folder in config.policies.items())


def run(config: Config, workdir: Path) -> None:
    """Writes `reward_vs_kl.json` and `reward_vs_kl-<split>.svg` per split, and prints the comparisons.

    By split, the JSON has under `pools` the reward of the best of n and its KL for every n. Under `policies` it has,
    per step, `score`, `kl_k1` and `kl_k3` (`{"mean", "standard_error", "n"}` over prompts, in nats per response) and
    `above`: by pool, the score minus best-of-n's at a KL of `kl_k1`, `{"mean", "low", "high"}` with a 95 % bootstrap
    interval over prompts, or `{"not_computed": reason}`.

    Raises:
      UserError: a file is missing or broken, has no rewards, KL or samples, or has other prompts than the rest.
    """
    path = workdir / "reward_vs_kl.json"
    check(config)
    pools = {name: _read(Path(file)) for name, file in config.pools.items()}
    policies = {name: _checkpoints(Path(folder)) for name, folder in config.policies.items()}
    splits = _common_splits(pools, policies)
    found_by_split = {
        split: {
            "pools": {name: _pool(records[split]) for name, records in pools.items()},
            "policies": {
                name: [
                    {"step": step, **_point(records[split], {n: pool[split] for n, pool in pools.items()}, config.seed)}
                    for step, records in steps.items()
                ]
                for name, steps in policies.items()
            },
        }
        for split in splits
    }
    drawn = zip(found_by_split, plots.reward_vs_kl_plots(found_by_split, config.title), strict=True)
    texts = {f"reward_vs_kl-{split}.svg": standalone(plot) for split, plot in drawn}
    write_together(workdir, {**texts, path.name: json.dumps(found_by_split, indent=2, allow_nan=False) + "\n"})
    print("\n".join([*_lines(found_by_split), f"reward vs KL: {path}"]), flush=True)


def _read(path: Path) -> Records:
    splits = read_by_split(path)
    for record in (record for records in splits.values() for record in records):
        if record.rewards is None:
            raise UserError(f'{path} has no rewards at "{record.id}"; expected samples that a reward model scored')
    return {split: {record.id: record for record in records} for split, records in splits.items()}


def _checkpoints(folder: Path) -> dict[int, Records]:
    """Reads the samples of a ppo run's evaluations, by step."""
    files = {
        int(found[1]): path for path in folder.glob("*") if (found := re.fullmatch(r"samples-(\d+)\.jsonl", path.name))
    }
    if not files:
        raise UserError(f"{folder} has no samples-<step>.jsonl; expected a ppo run with config.evaluate_prompts")
    found = {}
    for step in sorted(files):
        found[step] = _read(files[step])
        for record in (record for records in found[step].values() for record in records.values()):
            if record.kl_k1 is None or record.kl_k3 is None:
                raise UserError(f'{files[step]} has no KL at "{record.id}"; expected samples of the stage ppo')
    return found


def _common_splits(pools: Mapping[str, Records], policies: Mapping[str, Mapping[int, Records]]) -> list[str]:
    """Returns the splits. They and their prompts must be the same everywhere."""
    sources = {f"the pool {name}": records for name, records in pools.items()}
    for name, steps in policies.items():
        sources |= {f"the policy {name} at step {step}": records for step, records in steps.items()}
    first, expected = next(iter(sources.items()))
    for source, records in sources.items():
        if {split: records[split].keys() for split in records} != {split: expected[split].keys() for split in expected}:
            raise UserError(f"{source} has other prompts than {first}, expected the same ones")
    return list(expected)


def _pool(records: Mapping[str, Samples]) -> dict[str, Any]:
    first = next(iter(records.values()))
    about = {"temperature": first.temperature, "samples": first.n, "prompts": len(records)}
    return {**about, "best_of_n": best_of_n_estimates(_rewards(records))}


def _rewards(records: Mapping[str, Samples]) -> np.ndarray:
    """Returns `[B, N]`, prompts in the order of their ids."""
    return np.array([records[key].rewards for key in sorted(records)], np.float64)


def _point(records: Mapping[str, Samples], pools: Mapping[str, Mapping[str, Samples]], seed: int) -> dict[str, Any]:
    ordered = [records[key] for key in sorted(records)]
    score = _rewards(records).mean(axis=1)
    kl = {name: np.array([np.mean(getattr(record, name)) for record in ordered]) for name in ESTIMATORS}
    first = ordered[0]
    above = {}
    for name, pool in pools.items():
        temperature = next(iter(pool.values())).temperature
        if temperature == first.temperature:
            above[name] = score_above_best_of_n(score, kl["kl_k1"], best_of_n_values(_rewards(pool)), seed)
        else:
            reason = f"drawn at temperature {temperature:g}; the policy's KL is one at {first.temperature:g}"
            above[name] = {"not_computed": reason}
    measured = {"score": score, **kl}
    return {
        "temperature": first.temperature,
        "samples": first.n,
        **{name: mean_and_error(values) for name, values in measured.items()},
        "above": above,
    }


def score_above_best_of_n(score: np.ndarray, kl: np.ndarray, best: np.ndarray, seed: int) -> dict[str, Any]:
    """Compares a policy's mean score with that of best-of-n at the policy's own mean KL.

    Between two n, best-of-n's reward is linear in its KL. Below 0, which k1 may reach by chance, it is that of plain
    samples. The interval is from a bootstrap over prompts, which resamples score, KL and pool together.

    Args:
      score: `[B]`, per prompt.
      kl: `[B]` nats, per prompt.
      best: `[B, N]`, per prompt the reward of the best of n, for n = 1 to N.
      seed: of the bootstrap.

    Returns:
      `{"best_of_n", "mean", "low", "high"}`: best-of-n's reward there, the difference and its 95 % interval. It is
      `{"not_computed": reason}` if the KL is beyond the pool's.
    """
    kls = np.array([best_of_n_kl(n) for n in range(1, best.shape[1] + 1)])
    mean_kl = float(kl.mean())
    if mean_kl > kls[-1]:
        return {"not_computed": f"a KL of {mean_kl:.2f} is beyond the best of {len(kls)}, which has {kls[-1]:.2f}"}
    at_kl = float(np.interp(mean_kl, kls, best.mean(axis=0)))
    prompts = len(score)
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES) / prompts
    curves = counts @ best
    differences = counts @ score - [np.interp(x, kls, y) for x, y in zip(counts @ kl, curves, strict=True)]
    low, high = percentiles(differences, 0.95)
    return {"best_of_n": at_kl, "mean": float(score.mean()) - at_kl, "low": float(low), "high": float(high)}


def _lines(found_by_split: Mapping[str, Any]) -> list[str]:
    """Returns a line for every point, with its comparisons."""
    lines = []
    for split, found in found_by_split.items():
        for name, points in found["policies"].items():
            for point in points:
                score, k1, k3 = (_plus_minus(point[key]) for key in ("score", *ESTIMATORS))
                line = f"{split}, {name} at step {point['step']}: score {score}, KL {k1} (k1) and {k3} (k3) nats"
                lines.append("; ".join([line, *(_against(pool, above) for pool, above in point["above"].items())]))
    return lines


def _plus_minus(metric: Mapping[str, Any]) -> str:
    error = metric["standard_error"]
    return f"{metric['mean']:.2f}" + ("" if error is None else f" +- {error:.2f}")


def _against(pool: str, above: Mapping[str, Any]) -> str:
    if "not_computed" in above:
        return f"not against {pool}: {above['not_computed']}"
    verdict = "above" if above["low"] > 0 else "below" if above["high"] < 0 else "level with"
    interval = f"{above['mean']:+.2f}, 95 % interval {above['low']:+.2f} to {above['high']:+.2f}"
    return f"{verdict} {pool} at that KL ({interval})"
