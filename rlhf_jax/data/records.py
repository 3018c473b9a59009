"""The three kinds of JSONL records between stages, and their files."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from rlhf_jax.data.texts import content, require_unicode, short
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text, writing

# The last two are the test sets in and out of distribution. A record may name another split.
SPLITS = ("train", "validation", "id_test", "ood_test")
REFERENCE = "reference"
"""The side of `Samples.reference` in judgements."""

Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Example:
    """A prompt and the response to learn. The response has neither a leading space nor EOS."""

    id: str
    split: str
    prompt: str
    response: str

    def __post_init__(self) -> None:
        require_unicode(vars(self))
        _require(self.prompt.strip(), "the prompt is empty, expected text")
        _require(self.response.strip(), "the response is empty, expected text")


@dataclass(frozen=True)
class Preference:
    """Two responses to one prompt, the better one first. `margin` says by how much, if that is known.

    One of the texts may be empty.
    """

    id: str
    split: str
    prompt: str
    chosen: str
    rejected: str
    margin: Number | None = None

    def __post_init__(self) -> None:
        require_unicode(vars(self))
        _require(self.prompt.strip(), "the prompt is empty, expected text")
        same = self.chosen.strip() == self.rejected.strip()  # white space around a response is not read
        _require(not same, "chosen and rejected are the same text, expected two different ones")


@dataclass(frozen=True)
class Samples:
    """`n` outputs of one model to one prompt, each with its finish reason and, once scored, its reward.

    `selected` is the index of the output that a selecting policy (best-of-N) answers with. `kl_k1` and `kl_k3` are
    the KL of each output to the policy that training started from, in nats. Only the stage `ppo` writes them.
    """

    id: str
    split: str
    prompt: str
    reference: str
    outputs: list[str]
    rewards: list[Number] | None
    finish: list[Literal["eos", "length"]]
    selected: int | None
    model: str
    checkpoint: str
    temperature: Number
    n: int
    seed: int
    kl_k1: list[Number] | None = None
    kl_k3: list[Number] | None = None

    def __post_init__(self) -> None:
        require_unicode(vars(self))
        count = len(self.outputs)
        _require(self.prompt.strip(), "the prompt is empty, expected text")
        _require(count > 0, "outputs is empty, expected at least one")
        _require(self.n == count, f"n is {self.n}, expected the number of outputs, {count}")
        _require(len(self.finish) == count, f"finish has {len(self.finish)} entries, expected one per output, {count}")
        for name in ("rewards", "kl_k1", "kl_k3"):
            found = getattr(self, name)
            wrong = found is not None and len(found) != count
            _require(not wrong, f"{name} has {found and len(found)} entries, expected one per output, {count}")
        if self.selected is not None:
            _require(0 <= self.selected < count, f"selected is {self.selected}, expected an index below {count}")

    def answers[T](self, values: Sequence[T]) -> list[T]:
        """Selects, of values per output, those of the policy's answers: the selected output, or all."""
        return list(values) if self.selected is None else [values[self.selected]]


type Record = Example | Preference | Samples

# Names of the file of records in a folder.
FILES: dict[type[Record], str] = {Example: "examples.jsonl", Preference: "preferences.jsonl", Samples: "samples.jsonl"}


def read[R: Record](path: str | Path, kind: type[R], *, partial: bool = False) -> list[R]:
    """Reads a JSONL file of one kind of record.

    Args:
      path: the file, or a folder with a file of `FILES`. A last line without its newline is read too.
      kind: `Example`, `Preference` or `Samples`.
      partial: the file may have been cut by a kill in `append`. A last line without its newline is skipped (the next
        `append` removes it), and a file that does not exist has no records.

    Raises:
      UserError: the file is missing, or a line is not a JSON object, lacks a field, has a wrong type, an unknown field
        or a text that is not valid Unicode, breaks a rule of the record, or repeats an id.
    """
    path = Path(path)
    if path.is_dir():
        path /= FILES[kind]
    if not path.exists():
        if partial:
            return []
        raise UserError(f"{path} does not exist, expected a JSONL file of {kind.__name__} records.")
    *lines, last = content(path).split(b"\n")
    if last and not partial:
        lines.append(last)
    records: list[R] = []
    first_seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _parse(line, kind)
            _require(record.id not in first_seen, f"repeats the id {record.id!r} of line {first_seen.get(record.id)}")
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}.") from error
        first_seen[record.id] = number
        records.append(record)
    return records


def read_by_split(path: Path) -> dict[str, list[Samples]]:
    """Reads a samples.jsonl by split. All records of a split were sampled in the same way.

    Raises:
      UserError: the file is missing, broken or empty, or two records of one split differ in temperature, in their
        number of outputs, or in whether an output is selected.
    """
    splits: dict[str, list[Samples]] = {}
    for record in read(path, Samples):
        records = splits.setdefault(record.split, [])
        records.append(record)
        for field in ("temperature", "n"):
            found, expected = getattr(record, field), getattr(records[0], field)
            if found != expected:
                raise UserError(f'{path}: "{record.id}" has {field} = {found}, expected {expected} as before it.')
        if (record.selected is None) != (records[0].selected is None):
            raise UserError(f'{path}: "{record.id}" and "{records[0].id}" differ in whether an output is selected.')
    if not splits:
        raise UserError(f"{path} has no samples, expected one line per prompt.")
    return splits


def read_objects(path: str | Path, kind: type | None = None) -> list[dict[str, Any]]:
    """Reads the objects of a JSONL file that holds no records. Blank lines are passed over.

    Args:
      path: the file.
      kind: a TypedDict that each object has to fit. It may have more keys.

    Raises:
      UserError: the file is missing or cannot be read, or a line is not a JSON object of that kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist, expected a JSONL file.")
    objects = []
    # Only line feeds end a line: a text may contain other separators.
    for number, line in enumerate(content(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number} does not parse as JSON ({error}).") from None
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number} holds a JSON {type(value).__name__}; expected an object.")
        objects.append(check(kind, value, f"{path}:{number}") if kind else value)
    return objects


def to_lines(objects: Iterable[Mapping[str, Any]]) -> str:
    """Returns the text of a JSONL file that holds no records."""
    return "".join(json.dumps(value, allow_nan=False) + "\n" for value in objects)


def write(path: str | Path, records: Iterable[Record]) -> None:
    """Writes a JSONL file of records: it is complete or not there."""
    write_text(path, "".join(map(to_line, records)))


def append(path: str | Path, records: Sequence[Record]) -> None:
    """Adds records to a JSONL file, which need not exist, and flushes them to the disk.

    A kill leaves complete lines and at most one partial line at the end. The next call removes that line, and
    `read(..., partial=True)` skips it. So a stage that resumes reads the file, does the rest and appends it.

    Raises:
      UserError: the file cannot be written.
    """
    path = Path(path)
    with writing(path), open(path, "ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write("".join(map(to_line, records)).encode())
        file.flush()
        os.fsync(file.fileno())


def to_line(record: Record) -> str:
    """Returns a JSON object and a newline. Fields are in declared order, without optional ones that are None."""
    optional = {field.name for field in dataclasses.fields(record) if field.default is None}
    fields = {k: v for k, v in dataclasses.asdict(record).items() if v is not None or k not in optional}
    return json.dumps(fields, allow_nan=False) + "\n"


def fingerprint(records: Iterable[Record]) -> str:
    """Returns the SHA-256 over all records, in their order, as hexadecimal digits."""
    return hashlib.sha256("".join(map(to_line, records)).encode()).hexdigest()


def check[T](kind: type[T], value: object, where: str) -> T:
    """Returns an object of a JSON file if it fits `kind`, a TypedDict. It may have more keys.

    Raises:
      UserError: the first field that does not fit or is not valid Unicode, after `where`.
    """
    try:
        require_unicode(value)
    except UserError as error:
        raise UserError(f"{where}: {error}.") from None
    try:
        return _adapter(kind).validate_python(value, strict=True, extra="allow")
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error, kind)}.") from None


@functools.cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def _parse[R: Record](line: bytes, kind: type[R]) -> R:
    try:
        return _adapter(kind).validate_json(line, strict=True, extra="forbid")
    except ValidationError as error:
        with contextlib.suppress(ValueError, RecursionError):
            require_unicode(json.loads(line))  # pydantic refuses it too, but does not name the field
        raise UserError(_sentence(error, kind)) from None


def _sentence(error: ValidationError, kind: type) -> str:
    """Describes the first error of pydantic."""
    first = error.errors()[0]
    message, fields = first["msg"], ", ".join(kind.__annotations__)
    if first["type"] == "json_invalid":
        return f"is not JSON ({message}), expected an object with the fields {fields}"
    found = short(first["input"])
    if not first["loc"]:
        return f"found {found}, expected an object with the fields {fields}"
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:]
    if first["type"] == "missing":
        return f"has no field {name!r}" + (f", expected {fields}" if name in fields else "")
    if first["type"] == "unexpected_keyword_argument":
        return f"has the unknown field {name!r}, expected {fields}"
    return f"the field {name!r} is {found}, expected {message.removeprefix('Input should be ')}"


def _require(condition: object, message: str) -> None:
    if not condition:
        raise UserError(message)
