"""Stage `judge`: the winner on each prompt, of a model and the human summary or the baseline.

The judge is one of five. The gold scorer (simulated), a language model behind an endpoint, and people do not see which
text is the reference, so they can compare with it. The other two compare only models: a reward model, by the rewards
in the samples, and similarity to the reference.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rlhf_jax.config import Count, content_of
from rlhf_jax.data.records import Samples, to_lines
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_together
from rlhf_jax.judges import gold, llm, scores
from rlhf_jax.judges.consistency import verdict_statistics
from rlhf_jax.judges.gold import GoldConfig, make_scorer
from rlhf_jax.judges.llm import LlmJudge, LlmJudgeConfig, Match, Verdict, match_win_fraction
from rlhf_jax.judges.pairs import Contest, Judgement, check_names, contests, pairs_of, read_samples
from rlhf_jax.judges.people import PeopleConfig, judge_by_people
from rlhf_jax.judges.scores import ROUGE_L, Scores, gold_scores, reward_scores, similarity_scores
from rlhf_jax.metrics.winrate import win_rate
from rlhf_jax.report.alpaca_eval import annotation

_CANNOT_JUDGE_REFERENCES = {
    "reward": "samples.jsonl holds no reward of the human summaries",
    "similarity": "it reads the human summary, which would win every time",
}


@dataclass(frozen=True)
class Config:
    """Settings of the stage. Exactly one of `gold`, `llm`, `people`, `reward` and `similarity` chooses the judge.

    Attributes:
      stage: "judge".
      samples: model name to its samples.jsonl. All on the same prompts.
      baseline: the model that the others are compared with head to head.
      gold: the simulated judge.
      llm: a language model behind an endpoint.
      people: answers to a page that the stage `annotation_page` wrote, of the same samples.
      reward: the reward model, by the rewards in the samples.
      similarity: similarity to the human summary: "rouge_l", or the sentence encoder of a cosine.
      against_reference: True compares models with the human summaries too. `reward` and `similarity` cannot.
      pairs: number of pairs of outputs per prompt for `llm`: the i-th of the model with the i-th of the opponent, or
        with its only one. The other judges compare every output with every other.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("judgements.jsonl", "comparisons.jsonl", "judge.json", "annotations.json")

    stage: str
    samples: dict[str, str] = content_of("data")
    baseline: str
    gold: GoldConfig | None = None
    llm: LlmJudgeConfig | None = None
    people: PeopleConfig | None = None
    reward: bool = False
    similarity: str = content_of("encoder", default="")
    against_reference: bool = True
    pairs: Count = 1


def check(config: Config) -> None:
    """Raises UserError unless the config chooses one judge that can compare its models, and the baseline is one."""
    _kind_of_judge(config)
    check_names(config.samples, config.baseline)


def check_here(config: Config) -> None:
    """Raises UserError if what the judge needs is missing: an encoder, a prompt, a key."""
    if config.gold is not None:
        gold.check_here(config.gold)
    if config.llm is not None:
        llm.check_here(config.llm)
    if config.similarity:
        scores.check_here(config.similarity)


def run(config: Config, workdir: Path) -> None:
    """Writes judgements.jsonl, one line per prompt, model and opponent, and prints the win rates.

    A line is `{"id", "split", "model", "against", "preference", "score", "against_score", "judge"}`. `against` is
    "reference" or the baseline, which is not compared with itself. `preference` is 1 plus the model's win fraction:
    the mean over compared pairs of 1 for a win, 0.5 for a tie and 0 for a loss. The scores are means over outputs. Of
    a best-of-N record only the selected output counts.

    A language model and people give no scores. `score` and `against_score` are then the win fractions of each side.
    For a language model the line ends in `"answers", "unparsable"`: the number of answers, and of those that could not
    be read and count as ties. Then comparisons.jsonl has every answer, and judge.json their statistics and cost.

    If every model has one output per prompt, annotations.json has the judgements in AlpacaEval's format.

    Raises:
      UserError: a file is missing or broken, the models were not sampled on the same prompts, the baseline is not one
        of them, or the config does not choose exactly one judge that can compare them.
    """
    path = workdir / "judgements.jsonl"
    if path.exists():
        print(f"{path} is complete, nothing to do.")
        return
    kind = _kind_of_judge(config)
    samples = read_samples(config.samples, config.baseline)
    compared = list(contests(samples, config.baseline, config.against_reference))
    if not compared:
        raise UserError("There is nothing to compare: expected a second model, or against_reference = True.")
    texts = dict.fromkeys(("comparisons.jsonl", "judge.json"))
    if config.llm is not None:
        judgements, texts = _judge_by_llm(compared, LlmJudge(config.llm, workdir), config.pairs)
    elif config.people is not None:
        judgements = judge_by_people(compared, config.people)
    else:
        judgements = _judge_by_scores(compared, *_scores(kind, config, samples))
    texts["annotations.json"] = _annotations(compared, judgements)
    write_together(workdir, {**texts, path.name: to_lines(judgements)})
    for line in _win_rates(judgements):
        print(line)
    print(f"{path}: {len(judgements)} judgements.")


def _annotations(compared: Sequence[Contest], judgements: Sequence[Judgement]) -> str | None:
    """Returns the judgements for AlpacaEval. None if there are several outputs: it compares one with one."""
    contests_by_key = {(c.record.id, c.model, c.against): c for c in compared}
    if any(len(c.outputs) > 1 or len(c.opponents) > 1 for c in compared):
        return None
    rows = []
    for judgement in judgements:
        contest = contests_by_key[judgement["id"], judgement["model"], judgement["against"]]
        rows.append(annotation(contest.record, contest.outputs[0], contest.opponents[0], judgement))
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _kind_of_judge(config: Config) -> str:
    chosen = [name for name in ("gold", "llm", "people", "reward", "similarity") if getattr(config, name)]
    if len(chosen) != 1:
        raise UserError(
            f"The judge is {' and '.join(chosen) or 'missing'}, expected one of gold, llm, people, reward, similarity."
        )
    [kind] = chosen
    if config.against_reference and kind in _CANNOT_JUDGE_REFERENCES:
        raise UserError(
            f"The judge {kind} cannot give a win rate against the reference ({_CANNOT_JUDGE_REFERENCES[kind]}), "
            "expected against_reference = False."
        )
    return kind


def _scores(kind: str, config: Config, samples: Mapping[str, Sequence[Samples]]) -> tuple[Scores, str]:
    """Returns the scores of all outputs, and the name of the judge."""
    if config.gold is not None:
        return gold_scores(samples, make_scorer(config.gold)), config.gold.judge
    if kind == "reward":
        return reward_scores(samples), "reward model"
    name = "ROUGE-L" if config.similarity == ROUGE_L else f"cosine ({config.similarity})"
    return similarity_scores(samples, config.similarity), f"{name} to the reference"


def _judge_by_scores(compared: Sequence[Contest], scores: Scores, judge: str) -> list[Judgement]:
    judgements = []
    for contest in compared:
        own, other = (scores[side, contest.record.id] for side in (contest.model, contest.against))
        won = (1 + np.sign(own[:, None] - other)) / 2
        judgements.append(contest.judgement(float(won.mean()), float(own.mean()), float(other.mean()), judge))
    return judgements


def _judge_by_llm(
    compared: Sequence[Contest], judge: LlmJudge, pairs: int
) -> tuple[list[Judgement], dict[str, str | None]]:
    """Returns the judgements, and the texts of comparisons.jsonl and judge.json."""
    indices = [pairs_of(contest, pairs) for contest in compared]
    matches = [
        Match(contest.record.prompt, contest.outputs[i], contest.opponents[j], contest.record.split)
        for contest, found in zip(compared, indices, strict=True)
        for i, j in found
    ]
    verdicts = judge.compare(matches)
    left = iter(verdicts)
    judgements, comparisons = [], []
    for contest, found in zip(compared, indices, strict=True):
        of_contest = [next(left) for _ in found]
        won = float(np.mean([match_win_fraction(match) for match in of_contest]))
        answers = [verdict for match in of_contest for verdict in match if verdict.answer is not None]
        counts = {"answers": len(answers), "unparsable": sum(verdict.share is None for verdict in answers)}
        judgements.append(contest.judgement(won, won, 1 - won, judge.name) | counts)
        comparisons += [
            _comparison(contest, *pair, verdict)
            for pair, match in zip(found, of_contest, strict=True)
            for verdict in match
        ]
    statistics = {"judge": judge.name, **verdict_statistics(verdicts), "spent": judge.spent()}
    print(
        f"{judge.name}: {statistics['answers']:,} answers to {statistics['matches']:,} comparisons, "
        f"{statistics['unparsable']:,} unparsable and counted as ties; {judge.spent_in_words()}."
    )
    said = json.dumps(statistics, indent=2, allow_nan=False) + "\n"
    return judgements, {"comparisons.jsonl": to_lines(comparisons), "judge.json": said}


def _comparison(contest: Contest, output: int, opponent: int, verdict: Verdict) -> dict[str, Any]:
    """Returns a verdict as a line of comparisons.jsonl. `output` and `opponent` are indices of judged outputs."""
    return {
        "id": contest.record.id,
        "split": contest.record.split,
        "model": contest.model,
        "against": contest.against,
        "output": output,
        "opponent": opponent,
        **verdict._asdict(),
    }


def _win_rates(judgements: Sequence[Judgement]) -> Iterator[str]:
    groups: dict[tuple[str, str, str], list[float]] = {}
    for judgement in judgements:
        key = (judgement["model"], judgement["against"], judgement["split"])
        groups.setdefault(key, []).append(judgement["preference"])
    for (model, against, split), preferences in groups.items():
        rate = win_rate(preferences)
        error = "" if rate["standard_error"] is None else f" +- {rate['standard_error']:.1f}"
        yield f"{model} against {against}, {split}: win rate {rate['win_rate']:.1f}{error} % of {rate['n']}"
