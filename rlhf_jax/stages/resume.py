"""Resumption of a stage in its folder: compares the config and the content of its inputs with those of before.

`config.json` holds the config of the results in the folder. `inputs.json` holds a SHA-256 of each input that the config
names (data files, models, checkpoints of other runs), so an input may move, and may not change. `finished` marks a
stage that has returned: its config is never rewritten.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.config import to_dict
from rlhf_jax.data.records import write_text
from rlhf_jax.errors import UserError

CONFIG, INPUTS, FINISHED = "config.json", "inputs.json", "finished"


@dataclasses.dataclass
class Differences:
    """Differences between two configs, each as `key: old -> new`.

    Attributes:
      allowed: a resumed run may change these.
      refused: these would change the result.
      inputs: keys of inputs whose name changed, which is allowed if the content did not.
      grown: whether a run was made longer.
    """

    allowed: list[str] = dataclasses.field(default_factory=list)
    refused: list[str] = dataclasses.field(default_factory=list)
    inputs: list[str] = dataclasses.field(default_factory=list)
    grown: bool = False

    def add(self, other: Differences) -> None:
        """Adds those of a section."""
        self.allowed += other.allowed
        self.refused += other.refused
        self.inputs += other.inputs
        self.grown |= other.grown


def claim(workdir: Path, written: Mapping[str, Any], config: Any) -> None:
    """Makes `workdir` and writes `config.json` and `inputs.json` into it, unless other results are there.

    A config that was refused before it wrote anything else does not hold its folder.

    Args:
      workdir: the stage's folder.
      written: the config as plain data, as `config.json` keeps it.
      config: the same as the stage's dataclass, with all paths resolved.

    Raises:
      UserError: the folder cannot be written, or it holds the results of another config or of other inputs.
    """
    path = workdir / CONFIG
    is_study = hasattr(config, "stages")  # its stages write its inputs, and each stage checks its own
    inputs = {} if is_study else digests(config)
    before: dict[str, str] = {}
    if path.exists() and has_results(workdir):
        found = differences(_read(path), written, config)
        before = _read(workdir / INPUTS) if (workdir / INPUTS).exists() else {}
        renamed = () if is_study else found.inputs
        refused = [
            *found.refused,
            *(f"{key}: other content" for key in renamed if key not in before or before[key] != inputs.get(key)),
            *(
                f"{key}: edited"
                for key in sorted(inputs.keys() - set(renamed))
                if before.get(key, inputs[key]) != inputs[key]
            ),
        ]
        if refused:
            raise UserError(
                f"{workdir} holds results of another config or input ({'; '.join(refused)}); "
                "choose another workdir, or go back to what it was"
            )
        if found.allowed:
            print(f"{workdir} goes on with {'; '.join(found.allowed)}", flush=True)
        if (workdir / FINISHED).exists():
            if not found.grown:
                return
            (workdir / FINISHED).unlink()
    try:
        write_text(path, json.dumps(written, indent=2) + "\n")
        write_text(workdir / INPUTS, json.dumps({**before, **inputs}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"the workdir {workdir} cannot be written: {error.strerror}") from error


def finish(workdir: Path) -> None:
    """Marks the stage in `workdir` as finished."""
    (workdir / FINISHED).touch()


def has_results(workdir: Path) -> bool:
    """True if `workdir` holds any file beyond those that `claim` writes."""
    return any(path.is_file() and path.name not in (CONFIG, INPUTS) for path in workdir.rglob("*"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], config: Any, prefix: str = "") -> Differences:
    """Compares two configs key by key, by what the fields of the stage's dataclass declare.

    Args:
      old: plain data, perhaps with keys that have been renamed since.
      new: plain data.
      config: `new` as a dataclass.
      prefix: of the keys in messages.
    """
    found = Differences()
    renamed = getattr(config, "RENAMED", {})
    old = {renamed.get(key, key): value for key, value in old.items()}
    old.pop(None, None)
    for field in dataclasses.fields(config):
        key, value = f"{prefix}{field.name}", getattr(config, field.name)
        default = None if field.default is dataclasses.MISSING else field.default
        before, after = (each.get(field.name, default) for each in (old, new))
        if before == after:
            continue
        change = f"{key}: {_shown(old, field.name)} -> {_shown(new, field.name)}"
        meta = field.metadata
        if dataclasses.is_dataclass(value) and isinstance(before, Mapping) and not meta.get("may_change"):
            found.add(differences(before, after, value, f"{key}."))
        elif _has_sections(value) and _has_keys_of(before, after):
            for name, section in value.items():
                found.add(differences(before[name], after[name], section, f"{key}.{name}."))
        elif "content" in meta and _names(key, before) == _names(key, after):
            found.inputs += _names(key, after)
        elif meta.get("may_change") and not (meta["unless"] and meta["unless"](config)):
            found.allowed.append(change)
        elif "may_grow" in meta and meta["may_grow"](config) and isinstance(before, int) and after >= before:
            found.allowed.append(change)
            found.grown = True
        else:
            found.refused.append(change)
    return found


def digests(config: Any, prefix: str = "") -> dict[str, str]:
    """A SHA-256 of each input's content, by the key that names it. Inputs that do not exist yet are left out."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= digests(value, f"{prefix}{field.name}.")
        elif _has_sections(value):
            for name, section in value.items():
                found |= digests(section, f"{prefix}{field.name}.{name}.")
        elif "content" in field.metadata:
            for key, name in _named_inputs(f"{prefix}{field.name}", value):
                if name and (digest := _digest(field.metadata["content"], name)):
                    found[key] = digest
    return found


def _names(key: str, value: Any) -> list[str]:
    """The keys of the inputs that a field names."""
    return sorted(name for name, path in _named_inputs(key, value) if path)


def _has_sections(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(dataclasses.is_dataclass, value.values()))


def _has_keys_of(before: Any, after: Mapping[str, Any]) -> bool:
    """True for a mapping of mappings with the keys of `after`, in their order."""
    mappings = isinstance(before, Mapping) and all(isinstance(section, Mapping) for section in before.values())
    return mappings and list(before) == list(after)


def _named_inputs(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The names that one field holds: a string, or several in a mapping or a sequence."""
    if isinstance(value, Mapping):
        yield from ((f"{key}.{name}", path) for name, path in value.items())
    elif isinstance(value, tuple | list):
        yield from ((f"{key}[{index}]", path) for index, path in enumerate(value))
    else:
        yield key, value


def _digest(kind: str, name: str) -> str | None:
    try:
        if kind == "run":
            from rlhf_jax.training.checkpoint import fingerprint

            return fingerprint(Path(name))
        if kind == "model":
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
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.relative_to(path)}\0{digest}\n".encode())
    return total.hexdigest()


def _shown(config: Mapping[str, Any], key: str) -> str:
    return json.dumps(to_dict(config[key])) if key in config else "absent"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise UserError(f"{path} is not JSON ({error}); restore it or choose another workdir") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}, expected an object; choose another workdir")
    return value
