"""Stage `report`: one finished study, or the seeds of one, as report.html, report.json, report.md and a console table.

The same input gives the same bytes: nothing in a report comes from a clock.
"""

import importlib.metadata
import json
import platform
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import rlhf_jax
from rlhf_jax.config import NOT_EMPTY
from rlhf_jax.data.records import REFERENCE, Samples
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_together
from rlhf_jax.judges.gold import GoldConfig
from rlhf_jax.report import plots
from rlhf_jax.report.pages import SERIES, embedded, render
from rlhf_jax.report.study import Study, read_study, require_seeds_of_one_study, with_ood
from rlhf_jax.report.summary import Summary, summarise
from rlhf_jax.report.tables import WIDTH, Table, console, make_tables, meaning_of_errors, wide_tables
from rlhf_jax.stages.inputs import Input

PROMPTS_PER_SPLIT = 40
EMBEDDED_BYTES = 1_500_000
_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "tokenizers", "numpy", "matplotlib")


@dataclass(frozen=True)
class Config:
    """Settings of the stage.

    Attributes:
      stage: "report".
      title: heading of the report.
      runs: folders of finished studies. Several are seeds of one study and are averaged.
      evaluation: evaluation.json of a run, relative to its folder like all paths below.
      judgements: judgements.jsonl. Its head to head baseline is taken as the policy that training started from, so
        the KL column is the divergence from it.
      ood: the split that is out of distribution.
      samples: samples.jsonl by model, in the order of the tables.
      training: metrics.jsonl by training stage. The entry of a model's name has its KL.
      reward_vs_kl: reward_vs_kl.json, or "".
      quality: quality.json of the reward model, or "".
      notes: sentences for the reader.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("report.html", "report.json", "report.md", "tables.tex")

    stage: str
    title: str
    runs: Annotated[tuple[str, ...], NOT_EMPTY]
    evaluation: str
    judgements: str
    ood: str
    samples: dict[str, str]
    training: dict[str, str]
    reward_vs_kl: str
    quality: str
    notes: tuple[str, ...]


def check(config: Config) -> None:
    """Raises UserError if there is nothing to report."""
    if not config.runs or not config.samples:
        raise UserError("the report has no runs or no samples; expected at least one run folder and one model.")


def also_reads(config: Config) -> Iterator[Input]:
    """The files of the runs that have to be there."""
    files = {"evaluation": config.evaluation, "judgements": config.judgements, "quality": config.quality}
    files |= {
        "reward_vs_kl": config.reward_vs_kl,
        **{f"samples.{model}": path for model, path in config.samples.items()},
    }
    yield from (Input(key, "data", f"{run}/{path}") for run in config.runs for key, path in files.items() if path)


def run(config: Config, workdir: Path) -> None:
    """Writes workdir/report.html, report.json, report.md and tables.tex, and prints the tables.

    Raises:
      UserError: a run that lacks a file, a file that does not parse, or runs that differ in more than their seeds.
    """
    check(config)
    paths = config.evaluation, config.judgements, config.samples, config.training, config.reward_vs_kl, config.quality
    studies = [with_ood(read_study(Path(folder), *paths), config.ood) for folder in config.runs]
    require_seeds_of_one_study(studies)
    summary = summarise(studies)
    printed = make_tables(summary)
    tables = [*printed, *wide_tables(summary)]
    texts = {"reading": _reading(summary), "about": _about(summary)}
    pages = {
        "report.json": _json(config, summary),
        "report.md": render("report.md.j2", config=config, tables=tables, **texts),
        "tables.tex": render("tables.tex.j2", tables=tables),
        "report.html": _html(config, studies, summary, tables),
    }
    write_together(workdir, pages)
    wrapped = [textwrap.fill(text, WIDTH) for text in [*texts["reading"], *texts["about"]]]
    paragraphs = [config.title, *map(console, printed), *wrapped]
    print("\n\n".join(paragraphs), f"\nreport: {workdir / 'report.html'}", sep="\n")


def _about(summary: Summary) -> list[str]:
    """Returns facts about judge and encoder that precede all numbers."""
    judges = ", ".join(summary.judges) or "none"
    if all(judge.startswith("gold (") for judge in summary.judges):
        about = [
            f"The judge, {judges}, is a simulated gold scorer: a formula that rates an output against its text without "
            "reading the human summary. It is neither people nor a language model, and a win rate says only what that "
            "formula prefers."
        ]
    else:
        about = [f"The judge is {judges}; a win rate says only what it prefers."]
    if GoldConfig(summary.encoder).judge in summary.judges:
        about.append(
            f"The encoder behind Sentence-BERT diversity, {summary.encoder}, is the judge's own, so win rates and that "
            "diversity are not independent of each other."
        )
    return about


def _reading(summary: Summary) -> list[str]:
    """Returns the explanation of the tables."""
    brackets = "by a bootstrap over prompts, across inputs by their half-samples" if summary.runs == 1 else "over seeds"
    baseline = summary.baseline or "the baseline"
    return [
        f"{meaning_of_errors(summary)} Brackets are 95 % intervals {brackets}.",
        f"ID is in distribution, OOD out of distribution, gap is ID minus OOD in percent points; ties count half. "
        f"KL to {baseline}: of a trained policy the estimates k1 and k3 at its last logged step, of best-of-n "
        "log n - (n - 1) / n in both columns, which is relative to sampling at its own temperature. Length-controlled "
        "wins are those that a logistic model predicts at equal length; strength is Bradley and Terry's over all "
        "comparisons of a split, the reference among them.",
    ]


def _sampling(study: Study) -> list[str]:
    lines = []
    for model, samples in study.samples.items():
        first = samples[0]
        splits = Counter(sample.split for sample in samples)
        prompts = " and ".join(f"{count} {split}" for split, count in splits.items())
        outputs = f"best of {first.n}" if first.selected is not None else f"{first.n} outputs"
        lines.append(f"{model}: {prompts} prompts, {outputs} each at temperature {first.temperature:g}")
    return lines


def _json(config: Config, summary: Summary) -> str:
    report = {
        "title": config.title,
        "runs": _names(config),
        "errors": meaning_of_errors(summary),
        "judges": summary.judges,
        "encoder": summary.encoder,
        "baseline": summary.baseline,
        "models": summary.rows,
        "reward_models": summary.reward_models,
        "judging": summary.judging,
        "about": _about(summary),
        "notes": config.notes,
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _names(config: Config) -> list[str]:
    """Names of the runs. One run has the report's title: its folder's name would change with its place."""
    return [Path(folder).name for folder in config.runs] if len(config.runs) > 1 else [config.title]


def _html(config: Config, studies: Sequence[Study], summary: Summary, tables: Sequence[Table]) -> str:
    training = [study.training for study in studies]
    of_run = f" of run {studies[0].folder.name}" if len(studies) > 1 else ""
    browser = _browser(studies[0])
    return render(
        "report.html.j2",
        config=config,
        summary=summary,
        tables=tables,
        about=_about(summary),
        reading=_reading(summary),
        models=list(summary.rows),
        series=SERIES,
        figures={
            "Diversity against win rate": plots.diversity_against_win_rate(summary),
            "In distribution against out of distribution": plots.in_against_out(summary),
            "Policy optimisation": plots.policy_curves(training)
            + plots.reward_vs_kl_plots(studies[0].reward_vs_kl, f"Reward against KL{of_run}", list(summary.rows)),
            "Supervised and reward model training": plots.training_curves(training)
            + plots.reliability(studies[0].quality, f"Reliability{of_run}"),
        },
        browser=browser,
        browser_json=embedded(browser),
        sampling=_sampling(studies[0]),
        runs=[
            {"name": name, "config": _pretty(study.config)} for name, study in zip(_names(config), studies, strict=True)
        ],
        corpus=studies[0].corpus,
        versions={
            "rlhf_jax": rlhf_jax.__version__,
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
        pretty=_pretty,
    )


def _browser(study: Study) -> dict[str, Any]:
    """Returns the samples in the page: up to PROMPTS_PER_SPLIT prompts per split, fewer if texts are long."""
    verdicts = {(j["id"], j["model"]): j for j in study.judgements if j["against"] == REFERENCE}
    samples = {(sample.id, model): sample for model, found in study.samples.items() for sample in found}
    by_split: dict[str, list[Samples]] = {}
    for prompt in next(iter(study.samples.values())):
        by_split.setdefault(prompt.split, []).append(prompt)

    def entry(prompt: Samples) -> dict[str, Any]:
        keys = [(prompt.id, model) for model in study.samples]
        answers = [_answer(samples[key], verdicts.get(key)) if key in samples else None for key in keys]
        return {name: getattr(prompt, name) for name in ("id", "split", "prompt", "reference")} | {"answers": answers}

    limit = PROMPTS_PER_SPLIT
    while True:
        shown = {split: _spread(found, limit) for split, found in by_split.items()}
        entries = [entry(prompt) for found in shown.values() for prompt in found]
        if limit == 1 or len(json.dumps(entries, ensure_ascii=False).encode()) <= EMBEDDED_BYTES:
            break
        limit //= 2
    return {
        "models": list(study.samples),
        "shown": {split: len(found) for split, found in shown.items()},
        "of": {split: len(found) for split, found in by_split.items()},
        "prompts": entries,
    }


def _answer(sample: Samples, verdict: dict[str, Any] | None) -> dict[str, Any]:
    answer = {name: getattr(sample, name) for name in ("outputs", "rewards", "finish", "selected")}
    return answer | {"verdict": verdict and {key: verdict[key] for key in ("preference", "score", "against_score")}}


def _spread(samples: Sequence[Samples], limit: int) -> list[Samples]:
    """Returns at most `limit` samples, evenly spaced, so that a file sorted by origin shows every origin."""
    count = min(limit, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
