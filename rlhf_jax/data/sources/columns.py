"""Any other dataset: the config says how the texts of a record are made of a row's columns."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.sources.rows import Row, value
from rlhf_jax.errors import UserError

_COLUMN = re.compile(r"\{([^{}]+)\}")
_MARGIN = "margin"
# Of each kind of record the fields that a config has to give, and those that it may.
_KINDS = (
    (Example, {"prompt", "response"}, set[str]()),
    (Preference, {"prompt", "chosen", "rejected"}, {_MARGIN}),
)


def kind_of(templates: Mapping[str, str]) -> type[Example] | type[Preference]:
    """The kind of record that has these fields. A preference may have a margin.

    Raises:
      UserError: neither kind has.
    """
    for kind, required, optional in _KINDS:
        if required <= set(templates) <= required | optional:
            return kind
    raise UserError(
        f"columns has the keys {', '.join(templates) or '(none)'}, expected prompt and response, or prompt, chosen and "
        "rejected, and margin if there is one."
    )


def reader(templates: Mapping[str, str]) -> Callable[[Row], dict[str, Any]]:
    r"""From a row to the fields of a record.

    Args:
      templates: of each field a text with the names of columns in braces, `ARTICLE: {article}\nTL;DR:`.
    """

    def read(row: Row) -> dict[str, Any]:
        fields: dict[str, Any] = {name: _fill(template, row) for name, template in templates.items()}
        for name in fields.keys() - {"prompt", _MARGIN}:
            fields[name] = fields[name].strip()
        if _MARGIN in fields:
            fields[_MARGIN] = _number(fields[_MARGIN])
        return fields

    return read


def _fill(template: str, row: Row) -> str:
    def column(match: re.Match[str]) -> str:
        found = value(row, match[1])
        if not isinstance(found, str | int | float):
            raise UserError(f"has {found!r} in the column {match[1]!r}, expected text or a number")
        return str(found)

    return _COLUMN.sub(column, template)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"has the margin {text!r}, expected a number")
    return number
