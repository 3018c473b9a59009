"""Resumption of a stage in its folder: compares the config and the content of its inputs with those of before.

`config.json` holds the config of the results in the folder. `inputs.json` holds a SHA-256 of each input that the config
names (data files, models, checkpoints of other runs), so an input may move, and may not change. `finished` marks a
stage that has returned: its config is never rewritten.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax import files
from rlhf_jax.config import to_dict
from rlhf_jax.errors import UserError
from rlhf_jax.stages.inputs import digests, is_sections, names, outputs

CONFIG, INPUTS, FINISHED = "config.json", "inputs.json", "finished"


@dataclasses.dataclass
class Differences:
    """Differences between two configs, each as `key: old -> new`.

    Attributes:
      allowed: a resumed run may change these.
      refused: these would change the result.
      inputs: keys of inputs whose name changed, which is allowed if the content did not.
      grown: whether there is more to do, as when a run was made longer.
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
    """Writes `config.json` and `inputs.json` into `workdir`, unless other results are there, and tidies it up.

    A config that has produced nothing does not hold its folder: a stage that failed may be changed.

    Args:
      workdir: the stage's folder, locked by this process.
      written: the config as plain data, as `config.json` keeps it.
      config: the same as the stage's dataclass, with all paths resolved.

    Raises:
      UserError: the folder cannot be written, or it holds the results of another config or of other inputs.
    """
    files.clean(workdir)
    is_study = hasattr(config, "stages")  # its stages write its inputs, and each stage checks its own
    inputs = {} if is_study else digests(config)
    before: dict[str, str] = {}
    if has_results(workdir, config):
        found = changes(workdir, written, config)
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
        if (workdir / FINISHED).exists() and not found.grown:
            return
    (workdir / FINISHED).unlink(missing_ok=True)
    files.write_text(workdir / CONFIG, json.dumps(written, indent=2) + "\n")
    files.write_text(workdir / INPUTS, json.dumps({**before, **inputs}, indent=2) + "\n")


def finish(workdir: Path) -> None:
    """Marks the stage in `workdir` as finished."""
    (workdir / FINISHED).touch()


def has_results(workdir: Path, config: Any) -> bool:
    """True if `workdir` says of which config its results are, and there are some: the first of the stage's `OUTPUTS`.

    Of a study: if a stage has results, or had ended in it before.
    """
    if not (workdir / CONFIG).exists():
        return False
    if hasattr(config, "stages"):
        ended = any((workdir / name / FINISHED).exists() for name in _stages(_read(workdir / CONFIG)))
        return ended or any(has_results(workdir / name, stage) for name, stage in config.stages.items())
    return any(path not in (workdir / CONFIG, workdir / INPUTS) for path in workdir.glob(outputs(config)[0]))


def changes(workdir: Path, new: Mapping[str, Any], config: Any, prefix: str = "") -> Differences:
    """Compares a config with that of the results in `workdir`.

    A stage of a study is compared with its own results. One that has none may have any config, come or go.

    Args:
      workdir: the folder, with results.
      new: plain data.
      config: `new` as a dataclass.
      prefix: of the keys in messages.
    """
    old = _read(workdir / CONFIG)
    if not hasattr(config, "stages"):
        return differences(old, new, config, prefix)
    found = differences(old | {"stages": {}}, {**new, "stages": {}}, dataclasses.replace(config, stages={}), prefix)
    stages = _stages(old)
    for name, stage in config.stages.items():
        if has_results(workdir / name, stage):
            found.add(changes(workdir / name, new["stages"][name], stage, f"{prefix}stages.{name}."))
        elif stages.get(name) != new["stages"][name]:
            found.allowed.append(f"another {prefix}stages.{name}")
            found.grown = True
    for name in stages.keys() - new["stages"].keys():
        found.grown = True
        if (workdir / name / FINISHED).exists():
            found.refused.append(f"{prefix}stages.{name}: finished -> absent")
    return found


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
        elif is_sections(value) and _has_keys_of(before, after):
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


def _stages(study: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stages of a study's plain data, which may be damaged."""
    stages = study.get("stages")
    return stages if isinstance(stages, Mapping) else {}


def _names(key: str, value: Any) -> list[str]:
    """The keys of the inputs that a field names."""
    return sorted(name for name, _ in names(key, value))


def _has_keys_of(before: Any, after: Mapping[str, Any]) -> bool:
    """True for a mapping of mappings with the keys of `after`, in their order."""
    mappings = isinstance(before, Mapping) and all(isinstance(section, Mapping) for section in before.values())
    return mappings and list(before) == list(after)


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
