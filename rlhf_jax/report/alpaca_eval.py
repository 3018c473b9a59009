"""Files of other systems: AlpacaEval's `model_outputs.json` and `annotations.json`, the study's `decodes.json`.

Each is a JSON array of objects. `model_outputs.json` has a prompt's `instruction` (and `input`, where AlpacaFarm's data
have one), `output` and the `generator`. In `decodes.json` an `output` may also be a list of samples. `annotations.json`
has two outputs, `output_1` of the reference `generator_1` and `output_2` of `generator_2`, the `annotator`, and its
`preference` as `winrate.win_fractions` reads it. Prompts have no ids there. Ours are hashes of
their text, so that files agree in any order.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import BeforeValidator, Field

from rlhf_jax.data.records import Samples, check
from rlhf_jax.data.texts import content
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.winrate import is_preference


class _Prompt(TypedDict):
    instruction: str
    input: NotRequired[str]


class _Output(_Prompt):
    output: Annotated[
        list[str],
        Field(min_length=1),
        BeforeValidator(lambda output: [output] if isinstance(output, str) else output),
    ]
    generator: NotRequired[str]


class _Annotation(_Prompt):
    output_1: str
    generator_1: str
    output_2: str
    generator_2: str
    annotator: str
    preference: float | None


@dataclass(frozen=True)
class Outputs:
    """Outputs of one system: `by_prompt` has the same number for every prompt, in the order of the file."""

    generator: str
    by_prompt: dict[str, list[str]]


@dataclass(frozen=True)
class Annotation:
    """Verdict of a judge on one output of `generator` against one of `reference_generator`. None: it gave none."""

    prompt: str
    generator: str
    output: str
    reference_generator: str
    reference_output: str
    annotator: str
    preference: float | None


def prompt_id(prompt: str) -> str:
    """Returns 16 hexadecimal digits of the prompt's SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def read_outputs(path: str | Path) -> Outputs:
    """Reads `model_outputs.json` or `decodes.json`.

    Raises:
      UserError: the file is missing, empty or not a JSON array of objects, or a row lacks a field or has one of the
        wrong type. Or the file repeats a prompt, has different numbers of outputs, or names several generators.
    """
    by_prompt: dict[str, list[str]] = {}
    generators = set()
    for where, row in _rows(path, _Output):
        prompt, outputs = _prompt(where, row), row["output"]
        if prompt in by_prompt:
            raise UserError(f"{where} repeats the prompt {prompt[:60]!r}, expected each once.")
        by_prompt[prompt] = outputs
        expected = len(next(iter(by_prompt.values())))
        if len(outputs) != expected:
            raise UserError(f"{where} has {len(outputs)} output(s), expected {expected} as in the first row.")
        generators.add(row.get("generator", ""))
    if len(generators) > 1:
        raise UserError(f"{path} has outputs of {', '.join(map(repr, sorted(generators)))}, expected one generator.")
    return Outputs(generators.pop(), by_prompt)


def read_annotations(path: str | Path) -> list[Annotation]:
    """Reads AlpacaEval's `annotations.json`.

    AlpacaEval stores an answer that it could not parse as a preference of null, and computes win rates without it. Here
    its preference is None.

    Raises:
      UserError: the file is missing, empty or not a JSON array of objects, or a row lacks a field, has one of the wrong
        type, or annotates a prompt and pair of generators a second time.
    """
    annotations = []
    seen = set()
    for where, row in _rows(path, _Annotation):
        if row["preference"] is not None and not is_preference(row["preference"]):
            raise UserError(
                f"{where} has preference = {row['preference']}, expected null, 0, or from 1 (output_1 won) to 2 "
                "(output_2 won)."
            )
        annotation = Annotation(
            prompt=_prompt(where, row),
            generator=row["generator_2"],
            output=row["output_2"],
            reference_generator=row["generator_1"],
            reference_output=row["output_1"],
            annotator=row["annotator"],
            preference=row["preference"],
        )
        key = (annotation.prompt, annotation.generator, annotation.reference_generator)
        if key in seen:
            raise UserError(
                f"{where} annotates {annotation.generator} against {annotation.reference_generator} on "
                f"{annotation.prompt[:60]!r} again, expected once."
            )
        seen.add(key)
        annotations.append(annotation)
    return annotations


def annotation(record: Samples, output: str, opponent: str, judgement: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a line of judgements.jsonl on one pair of outputs as a row of AlpacaEval's `annotations.json`."""
    return {
        "dataset": record.split,
        "instruction": record.prompt,
        "output_1": opponent,
        "generator_1": judgement["against"],
        "output_2": output,
        "generator_2": judgement["model"],
        "annotator": judgement["judge"],
        "preference": judgement["preference"],
    }


def _rows(path: str | Path, kind: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a JSON array, each after its name in messages."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist, expected a JSON array of objects as AlpacaEval writes it.")
    try:
        rows = json.loads(content(path).decode())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}), expected an array of objects.") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} holds no array of one object or more, expected one as AlpacaEval writes it.")
    for index, row in enumerate(rows):
        where = f"{path}: row {index}"
        yield where, check(kind, row, where)


def _prompt(where: str, row: Mapping[str, Any]) -> str:
    """Returns the instruction, and below a header the input if there is one, as in the study's data."""
    if not row["instruction"].strip():
        raise UserError(f"{where} has an empty instruction, expected text.")
    return f"{row['instruction']}\n\n### Input:\n{row['input']}" if row.get("input") else row["instruction"]
