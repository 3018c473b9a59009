"""The inputs that a stage's config names (`config.content_of`): whether they are there, and their content's digests."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.files import visible


class Input(NamedTuple):
    """A name in a config.

    Attributes:
      key: of the config, e.g. `samples.sft`.
      kind: as `content_of` takes it.
      name: a path, or what the kind allows beside one.
      splits: of data, those that are read.
    """

    key: str
    kind: str
    name: str
    splits: Collection[str] = ()


def named(config: Any, prefix: str = "") -> Iterator[Input]:
    """The inputs that a stage's dataclass names, those of its sections among them. Empty names are left out."""
    for field in dataclasses.fields(config):
        key, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from named(value, f"{key}.")
        elif is_sections(value):
            for name, section in value.items():
                yield from named(section, f"{key}.{name}.")
        elif "content" in field.metadata:
            yield from (Input(each, field.metadata["content"], name) for each, name in names(key, value))


def names(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The names that one field holds, by their keys: a string, or several in a mapping or a sequence."""
    if isinstance(value, Mapping):
        found = [(f"{key}.{name}", path) for name, path in value.items()]
    elif isinstance(value, tuple | list):
        found = [(f"{key}[{index}]", path) for index, path in enumerate(value)]
    else:
        found = [(key, value)]
    yield from (each for each in found if each[1])


def is_sections(value: Any) -> bool:
    """True for a mapping of dataclasses."""
    return isinstance(value, Mapping) and any(map(dataclasses.is_dataclass, value.values()))


def digests(config: Any) -> dict[str, str]:
    """A SHA-256 of each input's content, by its key. Inputs that do not exist yet are left out."""
    return {each.key: digest for each in named(config) if (digest := _digest(each.kind, each.name))}


def require(inputs: Iterator[Input], earlier: Mapping[Path, Any], where: str) -> None:
    """Checks that inputs are there, or will be.

    Args:
      inputs: of a stage.
      earlier: the configs of the stages that run before it, by their folders.
      where: how messages name the stage's config.

    Raises:
      UserError: an input is not there, and no earlier stage writes it, or not the splits that are read.
    """
    for key, kind, name, splits in inputs:
        path = Path(name).absolute()
        writers = [folder for folder in earlier if path.is_relative_to(folder.absolute())]
        writer = max(writers, key=lambda folder: len(folder.parts), default=None)  # folders may be nested
        if writer is not None and not _is_output(path, kind, writer.absolute(), earlier[writer]):
            found = ", ".join(outputs(earlier[writer]))
            raise UserError(f"{where}.{key} is {name}, which {writer.name} does not write; it writes {found}")
        written = getattr(earlier.get(writer), "splits", splits)
        if unknown := [split for split in splits if split not in written]:
            raise UserError(
                f"{where}.{key} is {name}, of which the split {unknown[0]!r} is read; {writer.name} writes "
                f"{', '.join(written)}"
            )
        if writer is None:
            try:
                _require_there(kind, name)
            except UserError as error:
                raise UserError(f"{where}.{key} is {name}: {error}") from error


def outputs(config: Any) -> tuple[str, ...]:
    """Patterns of what a stage leaves in its folder for others. The first is there once it has produced something."""
    return getattr(config, "OUTPUTS", ("[!.]*",))


def _is_output(path: Path, kind: str, folder: Path, config: Any) -> bool:
    """True if the stage with that folder and config writes a path: the folder of a run, or one of its outputs.

    Or if somebody else has put a file there.
    """
    if kind == "run":
        return path == folder and any(output.startswith("checkpoints") for output in outputs(config))
    inside = path.relative_to(folder)
    return path.exists() or path == folder or any(inside.full_match(output) for output in outputs(config))


def _require_there(kind: str, name: str) -> None:
    if kind == "run":
        from rlhf_jax.training.checkpoint import load_meta

        load_meta(Path(name))
    elif kind == "model":
        from rlhf_jax import assets

        assets.resolve(name, weights=False)
    elif kind == "data" and "://" not in name and not Path(name).exists():
        raise UserError("there is no such file or folder")


def _digest(kind: str, name: str) -> str | None:
    try:
        if kind == "run":
            from rlhf_jax.training.checkpoint import fingerprint

            return fingerprint(Path(name))
        if kind in ("model", "encoder"):
            from rlhf_jax import assets

            return _digest_files(assets.resolve(name))
        from rlhf_jax.data.remote import local

        return _digest_files(local(name))
    except UserError:  # the stage says what is wrong with it
        return None


def _digest_files(path: Path) -> str | None:
    """SHA-256 over the names and bytes of a file, or of all files in a folder."""
    if not path.exists():
        return None
    total = hashlib.sha256()
    for file in visible(path) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.relative_to(path)}\0{digest}\n".encode())
    return total.hexdigest()
