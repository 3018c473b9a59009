"""Stage `annotation_page`: a page on which people compare outputs without seeing who wrote them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rlhf_jax.config import Count, CountOrZero, Seed, content_of
from rlhf_jax.data.records import to_lines
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_together
from rlhf_jax.judges.pairs import check_names, contests, read_samples
from rlhf_jax.judges.people import comparisons
from rlhf_jax.report.pages import embedded, render


@dataclass(frozen=True)
class Config:
    """Settings of the stage.

    Attributes:
      stage: "annotation_page".
      title: heading of the page.
      instructions: one or two sentences for the reader.
      samples: model name to its samples.jsonl. All on the same prompts.
      baseline: the model that the others are compared with.
      against_reference: True compares models with the human summaries too.
      prompts: number of first prompts per split. 0 for all.
      pairs: pairs of outputs per prompt, as in the stage `judge`.
      seed: of the questions' order and of which text is A.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("annotation_page.html", "key.jsonl")

    stage: str
    title: str
    instructions: str
    samples: dict[str, str] = content_of("data")
    baseline: str
    against_reference: bool
    prompts: CountOrZero
    pairs: Count
    seed: Seed


def check(config: Config) -> None:
    """As `pairs.check_names`."""
    check_names(config.samples, config.baseline)


def run(config: Config, workdir: Path) -> None:
    """Writes the self-contained annotation_page.html and key.jsonl, which says who wrote what. Keep the key private.

    The page saves answers in the browser at once and, on request, as a file. Its lines are
    `{"question", "choice", "annotator"}`, with the choice "a", "b" or "tie". The stage `judge` reads it (`people`).

    Raises:
      UserError: a file is missing or broken, or there is nothing to compare.
    """
    samples = read_samples(config.samples, config.baseline)
    kept, counts = set(), {}
    for record in next(iter(samples.values())):
        counts[record.split] = counts.get(record.split, 0) + 1
        if not config.prompts or counts[record.split] <= config.prompts:
            kept.add(record.id)
    compared = [c for c in contests(samples, config.baseline, config.against_reference) if c.record.id in kept]
    asked = comparisons(compared, config.pairs, config.seed)
    if not asked:
        raise UserError("There is nothing to compare: expected a second model, or against_reference = True.")
    shown = embedded([question.shown() for question in asked if question.model_is != "both"])
    page = render("annotation_page.html.j2", config=config, questions_json=shown)
    key = to_lines(question.key() for question in asked)
    write_together(workdir, {"key.jsonl": key, "annotation_page.html": page + "\n"})
    equal = sum(question.model_is == "both" for question in asked)
    print(
        f"{workdir / 'annotation_page.html'}: {len(asked) - equal} questions, {equal} pairs of equal texts are ties; "
        f"the key is {workdir / 'key.jsonl'}.",
        flush=True,
    )
