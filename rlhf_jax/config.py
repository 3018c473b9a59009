"""Strict conversion of a config (an `ml_collections.ConfigDict` or a dict) into a stage's frozen dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rlhf_jax.errors import UserError


def parse[T](cls: type[T], mapping: Mapping[str, Any] | ConfigDict, where: str = "config") -> T:
    """The dataclass `cls` with the values of `mapping`, every key and type checked.

    Types may be bool, int, float (an int is accepted), str, `Literal`, `Any`, optional and union types, dataclasses,
    `tuple[X, ...]`, `tuple[X, Y]` and `list[X]` (from a list or a tuple), and `dict[K, V]`.

    Args:
      cls: a dataclass; a field with a default may be left out of `mapping`.
      mapping: the values by field name.
      where: how messages name `mapping`, e.g. `config.optimizer`.

    Raises:
      UserError: a key that `cls` does not have (the nearest right one is named), a missing key, or a wrong type.
    """
    if not isinstance(mapping, Mapping | ConfigDict):
        raise _mismatch(where, "a section with keys of its own", mapping)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in mapping:
        if key not in fields:
            raise UserError(f"{where} has no key {key!r}; {suggest(key, fields)}")
    hints = typing.get_type_hints(cls)
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in mapping and not optional:
            raise UserError(f"{where} lacks the key {name!r} ({_describe(hints[name])})")
    return cls(**{key: _convert(hints[key], mapping[key], f"{where}.{key}") for key in mapping})


def to_dict(config: Any) -> Any:
    """Dataclasses, `ConfigDict`s and mappings as plain dicts, tuples as lists: what `json` writes and reads back."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping | ConfigDict):
        return {key: to_dict(config[key]) for key in config}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return config


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """The end of a sentence about an unknown `name`: the nearest right one, or all of them."""
    nearest = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(known)}"


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)
    if hint is Any:
        return to_dict(value)
    if origin is typing.Literal and value in arguments:
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        repeated = origin is list or arguments[-1] is Ellipsis
        members = [arguments[0]] * len(value) if repeated else arguments
        if len(members) != len(value):
            raise _mismatch(where, _describe(hint), value)
        return origin(
            _convert(member, item, f"{where}[{index}]")
            for index, (member, item) in enumerate(zip(members, value, strict=True))
        )
    if (origin or hint) is dict and isinstance(value, Mapping | ConfigDict):
        of_key, of_value = arguments or (Any, Any)
        return {_convert(of_key, key, where): _convert(of_value, value[key], f"{where}.{key}") for key in value}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise _mismatch(where, _describe(hint), value)


def _convert_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in members:
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    if len(members) == 1:
        return _convert(members[0], value, where)
    for member in members:
        try:
            return _convert(member, value, where)
        except UserError:
            continue
    raise _mismatch(where, " or ".join(_describe(member) for member in members), value)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _mismatch(where: str, expected: str, value: Any) -> UserError:
    return UserError(f"{where} is {value!r} ({type(value).__name__}), expected {expected}")
