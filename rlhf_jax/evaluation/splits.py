"""One model's samples, split by split."""

from __future__ import annotations

from pathlib import Path

from rlhf_jax.data.records import Samples, read
from rlhf_jax.errors import UserError


def read_by_split(path: Path) -> dict[str, list[Samples]]:
    """The records of a samples.jsonl by split, those of one split alike, so that means over them mean something.

    Raises:
      UserError: the file is missing, broken or empty, or two records of one split differ in temperature, in their
        number of outputs, or in whether one of these is selected.
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
        raise UserError(f"{path} holds no samples, expected one line a prompt.")
    return splits
