"""Other systems' files: AlpacaEval's `model_outputs.json` and `annotations.json`, and the study's `decodes.json`.

Each is a JSON array of objects. `model_outputs.json` has a prompt's `instruction` (and `input`, where AlpacaFarm's data
have one), `output` and the `generator`; in `decodes.json` an `output` may also be a list of samples. `annotations.json`
has two outputs, `output_1` of the reference `generator_1` and `output_2` of `generator_2`, the `annotator`, and its
`preference` as `winrate.shares` reads it. Prompts have no ids there: ours are hashes of their text, so that files agree
whatever their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_jax.data.records import Samples, write_text
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.winrate import is_preference


@dataclass(frozen=True)
class Outputs:
    """What one system said: `by_prompt` has the same number of outputs for every prompt, in the file's order."""

    generator: str
    by_prompt: dict[str, list[str]]


@dataclass(frozen=True)
class Annotation:
    """A judge's verdict on one output of `generator` against one of `reference_generator`."""

    prompt: str
    generator: str
    output: str
    reference_generator: str
    reference_output: str
    annotator: str
    preference: float


def prompt_id(prompt: str) -> str:
    """16 hexadecimal digits of the prompt's SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def read_outputs(path: str | Path) -> Outputs:
    """Reads `model_outputs.json` or `decodes.json`.

    Raises:
      UserError: the file is missing, is not a JSON array of objects or is empty; a row lacks a field or has one of the
        wrong type; the file repeats a prompt, gives prompts different numbers of outputs, or names several generators.
    """
    by_prompt: dict[str, list[str]] = {}
    generators = set()
    for where, row in _rows(path):
        prompt = _prompt(where, row)
        outputs = row.get("output")
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(outputs, list) or not outputs or not all(isinstance(text, str) for text in outputs):
            raise UserError(f"{where} has output = {_shown(row.get('output'))}, expected a text or a list of texts.")
        if prompt in by_prompt:
            raise UserError(f"{where} repeats the prompt {_shown(prompt)}, expected each once.")
        by_prompt[prompt] = outputs
        expected = len(next(iter(by_prompt.values())))
        if len(outputs) != expected:
            raise UserError(f"{where} has {len(outputs)} output(s), expected {expected} as in the first row.")
        generators.add(_text(where, row, "generator") if "generator" in row else "")
    if len(generators) > 1:
        raise UserError(f"{path} has outputs of {', '.join(map(repr, sorted(generators)))}, expected one generator.")
    return Outputs(generators.pop(), by_prompt)


def read_annotations(path: str | Path) -> list[Annotation]:
    """Reads AlpacaEval's `annotations.json`.

    A preference that is null, which is how AlpacaEval keeps an answer that it could not parse, is not dropped but
    refused: the win rate of the rest would be that of other prompts.

    Raises:
      UserError: the file is missing, is not a JSON array of objects or is empty; a row lacks a field or has one of the
        wrong type, or annotates a prompt and pair of generators a second time.
    """
    annotations = []
    seen = set()
    for where, row in _rows(path):
        preference = row.get("preference")
        if not is_preference(preference):
            raise UserError(
                f"{where} has preference = {_shown(preference)}, expected 0, or from 1 (output_1 won) to 2 (output_2 "
                "won): judge that row again, verdicts are not dropped."
            )
        annotation = Annotation(
            prompt=_prompt(where, row),
            generator=_text(where, row, "generator_2"),
            output=_text(where, row, "output_2"),
            reference_generator=_text(where, row, "generator_1"),
            reference_output=_text(where, row, "output_1"),
            annotator=_text(where, row, "annotator"),
            preference=preference,
        )
        key = (annotation.prompt, annotation.generator, annotation.reference_generator)
        if key in seen:
            raise UserError(
                f"{where} annotates {annotation.generator} against {annotation.reference_generator} on "
                f"{_shown(annotation.prompt)} again, expected once."
            )
        seen.add(key)
        annotations.append(annotation)
    return annotations


def write_outputs(path: str | Path, samples: Iterable[Samples], generator: str) -> None:
    """Writes `model_outputs.json`: what AlpacaEval takes as a model's outputs, the split as its `dataset`.

    Raises:
      UserError: a record has several outputs and none is selected; AlpacaEval judges one a prompt.
    """
    rows = [
        {"instruction": record.prompt, "output": _only_output(record), "generator": generator, "dataset": record.split}
        for record in samples
    ]
    _write(path, rows)


def write_annotations(
    path: str | Path, judgements: Iterable[Mapping[str, Any]], samples: Mapping[str, Sequence[Samples]]
) -> None:
    """Writes `annotations.json`, from which AlpacaEval computes its own metrics.

    Args:
      path: the file.
      judgements: lines of judgements.jsonl.
      samples: model name to the records that were judged; an opponent that is none of them is the references.

    Raises:
      UserError: a judgement of a model or a prompt that is not in `samples`, or a record as `write_outputs` refuses it.
    """
    by_id = {model: {record.id: record for record in records} for model, records in samples.items()}
    rows = []
    for judgement in judgements:
        model, against, id = (judgement[key] for key in ("model", "against", "id"))
        for name in (model, against) if against in by_id else (model,):
            if id not in by_id.get(name, {}):
                raise UserError(f"The samples have no record of {name} on {id!r}, expected one for each judgement.")
        record = by_id[model][id]
        rows.append(
            {
                "dataset": judgement["split"],
                "instruction": record.prompt,
                "output_1": _only_output(by_id[against][id]) if against in by_id else record.reference,
                "generator_1": against,
                "output_2": _only_output(record),
                "generator_2": model,
                "annotator": judgement["judge"],
                "preference": judgement["preference"],
            }
        )
    _write(path, rows)


def _only_output(record: Samples) -> str:
    outputs = record.answers(record.outputs)
    if len(outputs) > 1:
        raise UserError(f"{record.id!r} has {len(outputs)} outputs and none is selected, expected one for AlpacaEval.")
    return outputs[0]


def _rows(path: str | Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """The objects of a JSON array, each with how messages name it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist, expected a JSON array of objects as AlpacaEval writes it.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}), expected an array of objects as AlpacaEval writes it."
        ) from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} holds {_shown(rows)}, expected a JSON array of one object or more.")
    for index, row in enumerate(rows):
        where = f"{path}: row {index}"
        if not isinstance(row, dict):
            raise UserError(f"{where} is {_shown(row)}, expected an object.")
        yield where, row


def _prompt(where: str, row: Mapping[str, Any]) -> str:
    """The instruction and, where there is an input, that under a header, as in the study's data."""
    instruction = _text(where, row, "instruction")
    if not instruction.strip():
        raise UserError(f"{where} has an empty instruction, expected text.")
    below = _text(where, row, "input") if "input" in row else ""
    return f"{instruction}\n\n### Input:\n{below}" if below else instruction


def _text(where: str, row: Mapping[str, Any], field: str) -> str:
    if not isinstance(row.get(field), str):
        raise UserError(f"{where} has {field} = {_shown(row.get(field))}, expected a text.")
    return row[field]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _write(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
