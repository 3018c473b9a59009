"""A row of a dataset: a JSON object, or the same read from a table."""

import re
from typing import Any

from rlhf_jax.errors import UserError

type Row = dict[str, Any]


def value(row: Row, column: str) -> Any:
    """Value of a row in a column. `a.b` is the field `b` of the column `a`, and `a.0` or `a.-1` an entry of a list.

    So `{messages.0.content}` and `{messages.-1.content}` are the first and the last message of a conversation.

    Raises:
      UserError: there is no such column.
    """
    found: Any = row
    for name in column.split("."):
        if isinstance(found, list) and re.fullmatch(r"-?\d+", name) and -len(found) <= int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise UserError(f"has no column {column!r}, found {', '.join(map(str, row))}")
    return found


def text(row: Row, column: str) -> str:
    """The text that a row has in a column.

    Raises:
      UserError: there is no such column, or it holds something else.
    """
    found = value(row, column)
    if not isinstance(found, str):
        raise UserError(f"has {found!r} in the column {column!r}, expected text")
    return found


def ranked(responses: tuple[str, str], winner: Any, codes: tuple[int, int]) -> dict[str, str]:
    """The fields `chosen` and `rejected` of a preference between two responses.

    `winner` is the dataset's code of the better one, and `codes` are those of the first and of the second.

    Raises:
      UserError: the winner is neither.
    """
    if winner not in codes:
        raise UserError(f"has no winner: found {winner!r}, expected {codes[0]} or {codes[1]}")
    best = codes.index(winner)
    return {"chosen": responses[best].strip(), "rejected": responses[1 - best].strip()}
