"""Stage `convert`: outputs of another system, and verdicts on them, in the format of the stages here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rlhf_jax.config import NonNegative, Seed, content_of
from rlhf_jax.data.records import REFERENCE, Samples, to_line, to_lines
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_together
from rlhf_jax.metrics.winrate import win_fractions
from rlhf_jax.report.alpaca_eval import Annotation, Outputs, prompt_id, read_annotations, read_outputs


@dataclass(frozen=True)
class Config:
    """Settings of the stage. The last three are facts that a record needs and the files do not contain.

    Attributes:
      stage: "convert".
      model: name of the system in samples and judgements.
      split: of all prompts, e.g. "ood_test".
      outputs: AlpacaEval's `model_outputs.json` or the study's `decodes.json`.
      references: `model_outputs.json` of the reference, on the same prompts.
      annotations: AlpacaEval's `annotations.json` on these outputs. or "".
      temperature: sampling temperature of the outputs.
      finish: finish reason of all outputs, "eos" or "length".
      seed: of the sampling.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("samples.jsonl", "judgements.jsonl")

    stage: str
    model: str
    split: str
    outputs: str = content_of("data")
    references: str = content_of("data")
    annotations: str = content_of("data")
    temperature: NonNegative
    finish: Literal["eos", "length"]
    seed: Seed


def run(config: Config, workdir: Path) -> None:
    """Writes samples.jsonl and, with annotations, judgements.jsonl. `cat` joins the lines of several runs.

    Annotations against the reference's generator become judgements against "reference", others keep the opponent's
    name. The annotator gives no scores, so each side's score is its win fraction. An annotation without a preference
    becomes no judgement, and how many there are is printed, since the win rate is then that of fewer prompts.

    Raises:
      UserError: as in `read_outputs` and `read_annotations`. Outputs and references are on different prompts. The
        reference has several outputs per prompt. Or the annotations lack a prompt, or are of other prompts,
        generators or outputs.
    """
    path = workdir / "samples.jsonl"
    if path.exists():
        print(f"{path} is complete, nothing to do.")
        return
    outputs, references = read_outputs(config.outputs), read_outputs(config.references)
    _require_same_prompts(config, outputs, references)
    samples = [_record(config, outputs, prompt, references.by_prompt[prompt][0]) for prompt in outputs.by_prompt]
    judgements = _judgements(config, outputs, references) if config.annotations else None
    texts = {"judgements.jsonl": None if judgements is None else to_lines(judgements)}
    write_together(workdir, {**texts, path.name: "".join(map(to_line, samples))})
    print(f"{path}: {len(samples)} prompts, {samples[0].n} output(s) each.")


def _require_same_prompts(config: Config, outputs: Outputs, references: Outputs) -> None:
    strangers = outputs.by_prompt.keys() ^ references.by_prompt.keys()
    if strangers:
        raise UserError(
            f"{len(strangers)} prompt(s) are only in one of {config.outputs} and {config.references}, the first is "
            f"{min(strangers)[:60]!r}; expected the same prompts in both."
        )
    count = len(next(iter(references.by_prompt.values())))
    if count > 1:
        raise UserError(f"{config.references} has {count} outputs per prompt, expected one reference.")


def _record(config: Config, outputs: Outputs, prompt: str, reference: str) -> Samples:
    texts = outputs.by_prompt[prompt]
    return Samples(
        id=prompt_id(prompt),
        split=config.split,
        prompt=prompt,
        reference=reference,
        outputs=texts,
        rewards=None,
        finish=[config.finish] * len(texts),
        selected=None,
        model=config.model,
        checkpoint=outputs.generator,
        temperature=config.temperature,
        n=len(texts),
        seed=config.seed,
    )


def _judgements(config: Config, outputs: Outputs, references: Outputs) -> list[dict[str, Any]]:
    if not references.generator:
        raise UserError(f"{config.references} names no generator, expected the one that annotations are against.")
    annotations = read_annotations(config.annotations)
    generator = outputs.generator or annotations[0].generator
    missing: dict[str, set[str]] = {}
    for annotation in annotations:
        _require_of_these_outputs(config, annotation, generator, outputs, references)
        missing.setdefault(annotation.reference_generator, set(outputs.by_prompt)).remove(annotation.prompt)
    for against, prompts in missing.items():
        if prompts:
            raise UserError(
                f"{config.annotations} lacks {len(prompts)} of {len(outputs.by_prompt)} prompts against {against}, the "
                f"first is {min(prompts)[:60]!r}; expected an annotation of every prompt."
            )
    judged = [annotation for annotation in annotations if annotation.preference is not None]
    if not judged:
        raise UserError(f"{config.annotations} has no annotation with a preference, expected one or more.")
    unjudged = len(annotations) - len(judged)
    left_out = f"; {unjudged} of {len(annotations)} annotations have no preference and are left out" if unjudged else ""
    print(f"judgements.jsonl: {len(judged)} judgements{left_out}.")
    return [_judgement(config, annotation, references.generator) for annotation in judged]


def _require_of_these_outputs(
    config: Config, annotation: Annotation, generator: str, outputs: Outputs, references: Outputs
) -> None:
    about = f"{config.annotations} annotates {annotation.prompt[:60]!r}"
    if annotation.prompt not in outputs.by_prompt:
        raise UserError(f"{about}, which is not a prompt of {config.outputs}; expected the same prompts in both.")
    if annotation.generator != generator:
        raise UserError(f"{about} for {annotation.generator}, expected {generator} alone.")
    if annotation.output not in outputs.by_prompt[annotation.prompt]:
        raise UserError(f"{about} with an output_2 that is not in {config.outputs}, expected the same outputs in both.")
    against_reference = annotation.reference_generator == references.generator
    if against_reference and annotation.reference_output not in references.by_prompt[annotation.prompt]:
        raise UserError(f"{about} with an output_1 that is not in {config.references}, expected the same in both.")


def _judgement(config: Config, annotation: Annotation, reference_generator: str) -> dict[str, Any]:
    own = float(win_fractions([annotation.preference])[0])
    against = annotation.reference_generator
    return {
        "id": prompt_id(annotation.prompt),
        "split": config.split,
        "model": config.model,
        "against": REFERENCE if against == reference_generator else against,
        "preference": 1 + own,
        "score": own,
        "against_score": 1 - own,
        "judge": annotation.annotator,
    }
