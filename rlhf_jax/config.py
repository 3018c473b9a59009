"""Configs: strict conversion into frozen dataclasses, and what a field may declare about its values.

A stage's `Config` is a plain dataclass. Beside its type, a field can declare a domain (`learning_rate: Positive`), that
a resumed run may set it anew (`may_change()`), or that it names an input whose content matters (`content_of("data")`).
`stages.resume` reads the last two. `RENAMED = {old key: new key}` in a class makes errors about old configs clear.
"""

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from ml_collections import ConfigDict
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from rlhf_jax.errors import UserError


def _in_float32(value: float) -> float:
    if value and not 1e-30 <= abs(value) <= 1e30:  # NaN is not either
        raise ValueError("0 or a size from 1e-30 to 1e30, which float32 holds with room to compute")
    return value


def _ascending(lengths: tuple[int, ...]) -> tuple[int, ...]:
    if not lengths or list(lengths) != sorted(set(lengths)):
        raise ValueError("one or more lengths in ascending order")
    return lengths


def _not_empty[C: (tuple, dict)](values: C) -> C:
    if not values:
        raise ValueError("one or more")
    return values


def _finite(parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(parameters, allow_nan=False)
    except ValueError:
        raise ValueError("finite numbers alone") from None
    return parameters


# The domains of numbers. tests/test_configs.py refuses a number in a stage's config that has none.
Count = Annotated[int, Field(ge=1, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # JAX drops the bits above
Number = Annotated[float, AfterValidator(_in_float32)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_in_float32)]
NonNegative = Annotated[float, Field(ge=0), AfterValidator(_in_float32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, le=1 - 2**-24)]  # nothing above is below 1 in float32
Seconds = Annotated[float, Field(ge=0, le=1e9)]  # clocks of the operating system end there
Lengths = Annotated[tuple[Count, ...], AfterValidator(_ascending)]
Parameters = Annotated[dict[str, Any], AfterValidator(_finite)]  # of free choice, for a server to check
NOT_EMPTY = AfterValidator(_not_empty)
Content = Literal["data", "named data", "model", "encoder", "run"]


def may_change(unless: Callable[[Any], bool] | None = None, **field: Any) -> Any:
    """Declares a field that a resumed run may set anew, because it does not change the result.

    Args:
      unless: given the config's section, whether the field changes the result after all.
      **field: as for `dataclasses.field`.
    """
    return dataclasses.field(metadata={"may_change": True, "unless": unless}, **field)


def may_grow(when: Callable[[Any], bool]) -> Any:
    """Declares a number that a resumed run may raise when `when`, given the config's section, holds."""
    return dataclasses.field(metadata={"may_grow": when})


def content_of(kind: Content, **field: Any) -> Any:
    """Declares a name or path whose content decides the result: data files, a model, or a run's checkpoint.

    "named data" may have a name that is no path, and "encoder" one that is no model's: their stages know those.
    """
    return dataclasses.field(metadata={"content": kind}, **field)


def parse[T](cls: type[T], mapping: Mapping[str, Any] | ConfigDict, where: str = "config") -> T:
    """Converts `mapping` to the dataclass `cls`. Every key, type and domain is checked.

    Args:
      cls: a dataclass. A field with a default may be missing in `mapping`. Lists stand for tuples, ints for floats.
      mapping: the values by field name.
      where: how messages name `mapping`, e.g. `config.optimizer`.

    Raises:
      UserError: an unknown key (the nearest known one is named), a missing key, a wrong type or a value outside its
        domain.
    """
    plain = to_dict(mapping)
    try:
        return TypeAdapter(cls).validate_json(json.dumps(plain), strict=True, extra="forbid")
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] != "unexpected_keyword_argument")  # the cause
        raise UserError(_sentence(cls, plain, first, where)) from None
    except TypeError as error:
        raise UserError(f"{where} holds a value that JSON cannot hold: {error}") from None


def require(domain: Any, value: Any, name: str) -> Any:
    """An argument of a Python call as a number of a domain, `Count` and the like.

    Raises:
      UserError: it is none.
    """
    try:
        return TypeAdapter(domain).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{name} is {value!r}, expected {_expected(error.errors()[0])}") from None


def to_dict(config: Any) -> Any:
    """Dataclasses, `ConfigDict`s and mappings as plain dicts, tuples as lists: what `json` writes and reads back."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping | ConfigDict):
        return {key: to_dict(config[key]) for key in config}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return config


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown `name`: the nearest known one, or all of them."""
    nearest = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(known)}"


def _sentence(cls: type, value: Any, error: Mapping[str, Any], where: str) -> str:
    """One sentence for pydantic's first complaint about `value`."""
    if error["type"] == "json_invalid":  # `json` wrote it, so only its texts can be wrong
        return f"{where} holds a text that is not valid Unicode ({error['msg'].removeprefix('Invalid JSON: ')})"
    *sections, key = error["loc"] or (None,)
    for section in sections:
        if not isinstance(value, dict | list) or isinstance(section, str) != isinstance(value, dict):
            break  # the rest of the location names a member of a union, which is no key
        where += f"[{section}]" if isinstance(value, list) else f".{section}"
        value, cls = value[section], _class_of(cls, section)
    if error["type"] == "unexpected_keyword_argument":
        if key in (renamed := getattr(cls, "RENAMED", {})):
            new = renamed[key]
            return f"{where} has the old key {key!r}; " + (f"it is {new!r} now" if new else "it no longer exists")
        known = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        return f"{where} has no key {key!r}; {suggest(key, known)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where} lacks the {'key' if isinstance(key, str) else 'entry'} {key!r}"
    if isinstance(value, dict) and key in value:
        where, value = f"{where}.{key}", value[key]
    elif isinstance(value, list) and isinstance(key, int) and key < len(value):
        where, value = f"{where}[{key}]", value[key]
    return f"{where} is {value!r} ({type(value).__name__}), expected {_expected(error)}"


def _expected(error: Mapping[str, Any]) -> str:
    return error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _class_of(cls: Any, name: Any) -> Any:
    """The dataclass of a section, for the names of its keys. None where the section is none."""
    if not dataclasses.is_dataclass(cls):
        return getattr(cls, "__args__", (None,))[-1]  # of dict[str, Section] and tuple[Section, ...]
    hint = get_type_hints(cls).get(name)
    members = [m for m in getattr(hint, "__args__", ()) if dataclasses.is_dataclass(m)]
    return members[0] if members and not dataclasses.is_dataclass(hint) and not _is_container(hint) else hint


def _is_container(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) in (dict, tuple, list)
