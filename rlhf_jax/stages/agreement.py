"""Stage `agreement`: how often a judge chooses as people did, on pairs with labels of people."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from rlhf_jax.config import NOT_EMPTY, Count, Seed, content_of
from rlhf_jax.data.formats import source_text
from rlhf_jax.data.records import Preference, read
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text
from rlhf_jax.judges import gold, llm
from rlhf_jax.judges.consistency import human_agreement, verdict_statistics
from rlhf_jax.judges.gold import GoldConfig, make_scorer
from rlhf_jax.judges.llm import LlmJudge, LlmJudgeConfig, Match, Verdict, match_win_fraction


@dataclass(frozen=True)
class Config:
    """Settings of the stage. Exactly one of `gold` and `llm` chooses the judge.

    Attributes:
      stage: "agreement".
      data: preferences.jsonl with the labels of people.
      splits: names of its splits. Each is reported separately.
      pairs: largest number of pairs per split, drawn without replacement. The study takes 500.
      gold: the simulated judge.
      llm: a language model behind an endpoint.
      seed: of the draw.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("agreement.json",)

    stage: str
    data: str = content_of("data")
    splits: Annotated[tuple[str, ...], NOT_EMPTY]
    pairs: Count
    seed: Seed
    gold: GoldConfig | None = None
    llm: LlmJudgeConfig | None = None


def check(config: Config) -> None:
    """Raises UserError unless the config chooses one judge."""
    if (config.gold is None) == (config.llm is None):
        raise UserError("The judge has to be one of gold and llm, expected the section of one and not of the other.")


def check_here(config: Config) -> None:
    """Raises UserError if what the judge needs is missing: an encoder, a prompt, a key."""
    if config.gold is not None:
        gold.check_here(config.gold)
    if config.llm is not None:
        llm.check_here(config.llm)


def run(config: Config, workdir: Path) -> None:
    """Writes agreement.json: `{"judge", "splits": {split: `human_agreement`}}`, and prints accuracies and kappas.

    With a language model each split also has `"verdicts"` (`verdict_statistics`), and `"spent"` is the cost of the
    answers.

    Raises:
      UserError: the data are missing or broken, a split has no pairs, or the config does not choose exactly one judge.
    """
    path = workdir / "agreement.json"
    if path.exists():
        print(f"{path} is complete, nothing to do.")
        return
    check(config)
    pairs = {split: _draw(config, split) for split in config.splits}
    if config.gold is not None:
        result = {"judge": config.gold.judge, "splits": _by_gold(pairs, config.gold)}
    else:
        judge = LlmJudge(config.llm, workdir)
        result = {"judge": judge.name, "splits": _by_llm(pairs, judge), "spent": judge.spent()}
        print(f"{judge.name}: {judge.spent_in_words()}.")
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
    for split, found in result["splits"].items():
        accuracy, kappa = found["accuracy"]["mean"], found["kappa"]
        print(f"{result['judge']}, {split}: agrees with people on {accuracy:.1f} % of {found['n']}, kappa {kappa:.3f}")


def _draw(config: Config, split: str) -> list[Preference]:
    records = [record for record in read(config.data, Preference) if record.split == split]
    if not records:
        raise UserError(f'{config.data} has no pairs in the split "{split}", expected one or more.')
    order = np.random.default_rng(config.seed).permutation(len(records))[: config.pairs]
    return [records[index] for index in sorted(order)]


def _by_gold(pairs: dict[str, list[Preference]], config: GoldConfig) -> dict[str, Any]:
    scorer = make_scorer(config)
    result = {}
    for split, records in pairs.items():
        texts = [source_text(record.prompt) for record in records]
        chosen, rejected = (
            scorer(texts, [getattr(record, side) for record in records]) for side in ("chosen", "rejected")
        )
        result[split] = human_agreement([1.0] * len(records), (1 + np.sign(chosen - rejected)) / 2)
    return result


def _by_llm(pairs: dict[str, list[Preference]], judge: LlmJudge) -> dict[str, Any]:
    matches = [Match(r.prompt, r.chosen, r.rejected, r.split) for records in pairs.values() for r in records]
    verdicts = judge.compare(matches)
    result, start = {}, 0
    for split, records in pairs.items():
        found = verdicts[start : start + len(records)]
        start += len(records)
        agreed = human_agreement([1.0] * len(found), [_share(match) for match in found])
        result[split] = agreed | {"verdicts": verdict_statistics(found)}
    return result


def _share(match: Sequence[Verdict]) -> float | None:
    return None if all(verdict.share is None for verdict in match) else match_win_fraction(match)
