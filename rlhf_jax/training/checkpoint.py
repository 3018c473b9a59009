"""Checkpoints by Orbax: asynchronous, complete or invisible, restored bit for bit.

A checkpoint is the folder `<directory>/<step>` with four items, each readable without the others:

* `top`: the trained part of the network, as a nested dict of arrays in the form of files (`parallel.file_layout`).
  Other stages read only this.
* `rest`: every other array of the state, by its path in the state.
* `meta`: JSON that describes the top (stage, role, the trunk's fingerprint, normalisation constants, ...).
* `timing`: JSON of clock readings, which are no part of what a resumed run must reproduce.

Stages that load a run's top get its latest checkpoint, or the one whose step the latest one's `meta` gives as "load".
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.errors import UserError, readable
from rlhf_jax.parallel import file_layout, hosts

_ITEMS = ("top", "rest", "meta", "timing")


class Checkpoints:
    """The checkpoints of one run. A context manager that waits for the last save.

    On several hosts each makes one and asks for the same saves. Each writes its own shares of the arrays.

    Args:
      directory: their folder, made if it is not there. What a killed run left half-written in it is removed.
      keep: how many of the latest checkpoints stay. The best one stays too.
      vocabulary: rows of the tables in files. None for as many as the arrays have.

    Raises:
      UserError: the folder cannot be made or written.
    """

    def __init__(self, directory: Path, keep: int = 2, vocabulary: int | None = None) -> None:
        import orbax.checkpoint as ocp

        self.directory = directory.resolve()
        self._vocabulary = vocabulary
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the checkpoint folder {self.directory} cannot be made: {error.strerror}") from error
        if not os.access(self.directory, os.W_OK):
            raise UserError(f"the checkpoint folder {self.directory} cannot be written; choose another workdir")
        if hosts.is_main():
            for folder in self.directory.iterdir():
                if folder.name.isdigit() and not _is_complete(folder):
                    shutil.rmtree(folder)
        hosts.barrier(f"the checkpoints of {directory.parent.name}")
        logging.getLogger("absl").addFilter(_is_news)
        self._best = _KeepStep()
        policies = [ocp.checkpoint_managers.LatestN(keep), self._best]
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """The step of the latest complete checkpoint, or None."""
        return _latest(self.directory)

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        timing: Mapping[str, float] | None = None,
        best: int | None = None,
    ) -> None:
        """Starts to write `state` as the checkpoint of `step`. It may be donated or changed as soon as this returns.

        Args:
          step: where the run stands. Each is saved once.
          state: a pytree of arrays (typed PRNG keys too) with a child `top`, as a dict key or a dataclass field.
          meta: JSON values.
          timing: JSON values.
          best: the step of the checkpoint that is to stay however old it gets. It may be this one.

        Raises:
          UserError: too little space for it, or the save before this one failed. Complete checkpoints are unharmed.
        """
        import orbax.checkpoint as ocp

        top, rest = self._filed(state)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves((top, rest)))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"the checkpoint of step {step} needs {needed:,} bytes in {self.directory}, where {free:,} are free; "
                f"free some and run the same command again ({self._standing()})"
            )
        self.wait()
        self._best.step = best
        self._manager.save(
            step,
            args=ocp.args.Composite(
                top=ocp.args.StandardSave(top),
                rest=ocp.args.StandardSave(rest),
                meta=ocp.args.JsonSave(copy.deepcopy(dict(meta))),
                timing=ocp.args.JsonSave(dict(timing or {})),
            ),
            force=True,
        )

    def wait(self) -> None:
        """Returns when the last save is complete.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:  # ValueError is how tensorstore reports a failed write
            cause = str(error).rsplit(": ", maxsplit=1)[-1].partition(" [")[0]
            raise UserError(
                f"a checkpoint could not be written to {self.directory}: {cause} ({self._standing()})"
            ) from error

    def restore(self, abstract_state: Any, step: int | None = None) -> Any:
        """The state that was saved, bit for bit.

        Args:
          abstract_state: a pytree like the one that was saved, of `jax.ShapeDtypeStruct`s or arrays. Each array comes
            back with its sharding, or on the first device if it has none. NumPy arrays come back as such.
          step: the checkpoint's step. The latest by default.

        Raises:
          UserError: no such checkpoint, or its arrays differ from `abstract_state` in name, shape or dtype.
        """
        import orbax.checkpoint as ocp

        folder = _folder(self.directory, step)
        placed = jax.tree.map(_placed, abstract_state)
        top, rest = self._filed(placed)
        arguments = {}
        for name, item in {"top": top, "rest": rest}.items():
            _check_same(folder / name, item)
            arguments[name] = ocp.args.StandardRestore(item)
        items = _read(folder, **arguments)
        leaves = _by_path({"top": items["top"]}) | items["rest"]
        return jax.tree.map_with_path(lambda path, leaf: _collected(_name(path), leaf, leaves), placed)

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The `meta` of the checkpoint of `step`, the latest by default. Raises UserError if there is none."""
        return _read_json(_folder(self.directory, step), "meta")

    def timing(self, step: int | None = None) -> dict[str, Any]:
        """The `timing` of the checkpoint of `step`, the latest by default. Raises UserError if there is none."""
        return _read_json(_folder(self.directory, step), "timing")

    def close(self) -> None:
        """Waits for the last save and frees the threads that write."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _filed(self, state: Any) -> tuple[Any, dict[str, Any]]:
        """The top and the rest of a state in the form that files have."""
        if self._vocabulary is not None:
            state = file_layout.cut_vocabulary(state, self._vocabulary)
        return _split(file_layout.unstacked(state))

    def _standing(self) -> str:
        latest = self.latest()
        return "no checkpoint is complete yet" if latest is None else f"that of step {latest} is complete and unharmed"


@dataclasses.dataclass
class _KeepStep:
    """An Orbax preservation policy: the checkpoint of one step stays."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


def load_top(run_folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(top, meta)` of the checkpoint of a run that other stages load: the top as a nested dict of NumPy arrays.

    Raises:
      UserError: `run_folder/checkpoints` holds no complete checkpoint, or not the one that its latest one names.
    """
    import orbax.checkpoint as ocp

    folder = _chosen(run_folder)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _stored(folder / "top"))
    items = _read(folder, top=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return items["top"], _read_json(folder, "meta")


def load_meta(run_folder: Path) -> dict[str, Any]:
    """The `meta` of the checkpoint of a run that other stages load.

    Raises:
      UserError: as `load_top`.
    """
    return _read_json(_chosen(run_folder), "meta")


def fingerprint(run_folder: Path) -> str:
    """SHA-256 over the top that other stages load and what its `meta` says of it.

    Raises:
      UserError: as `load_top`.
    """
    top, meta = load_top(run_folder)
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, leaf in sorted(_by_path(top).items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _chosen(run_folder: Path) -> Path:
    """The folder of the checkpoint that other stages load."""
    directory = (run_folder / "checkpoints").resolve()
    latest = _folder(directory, None)
    return _folder(directory, _read_json(latest, "meta").get("load"))


def _is_news(record: logging.LogRecord) -> bool:
    """False for the traceback that Orbax logs when a save fails: `wait` raises it as a sentence."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _is_complete(folder: Path) -> bool:
    """True if a step's folder is complete. Orbax renames it into place when it is. A copy may have been cut short."""
    return all((folder / name).exists() for name in (*_ITEMS, "_CHECKPOINT_METADATA"))


def _latest(directory: Path) -> int | None:
    folders = directory.iterdir() if directory.is_dir() else ()
    return max((int(folder.name) for folder in folders if folder.name.isdigit() and _is_complete(folder)), default=None)


def _folder(directory: Path, step: int | None) -> Path:
    step = _latest(directory) if step is None else step
    if step is None:
        raise UserError(f"{directory} holds no complete checkpoint; run the stage that writes it first")
    if not _is_complete(directory / str(step)):
        raise UserError(f"{directory} holds no complete checkpoint of step {step}; the latest is {_latest(directory)}")
    return directory / str(step)


def _split(state: Any) -> tuple[Any, dict[str, Any]]:
    """The state's child `top`, and its other leaves by path."""
    top = state["top"] if isinstance(state, Mapping) else state.top
    return top, {name: leaf for name, leaf in _by_path(state).items() if not name.startswith("top/")}


def _by_path(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _stored(item: Path) -> Any:
    """Description of an item with shapes and dtypes, without reading it."""
    import orbax.checkpoint as ocp

    with readable(f"the checkpoint {item}"):
        return ocp.StandardCheckpointHandler().metadata(item).tree


def _check_same(item: Path, expected: Any) -> None:
    found, expected = (
        {name: _describe(leaf) for name, leaf in _by_path(tree).items()} for tree in (_stored(item), expected)
    )
    for name in sorted({*found, *expected}):
        before, now = found.get(name, "nothing"), expected.get(name, "nothing")
        if before != now:
            raise UserError(f"the checkpoint {item} holds {before} as {name!r}, expected {now}")


def _describe(leaf: Any) -> str:
    """Dtype and shape, e.g. `float32[4, 2]`. Of a PRNG key those of its data, which is what is stored."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def _placed(leaf: Any) -> Any:
    """The abstract array with a sharding, which Orbax wants to be told."""
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _collected(path: str, leaf: Any, leaves: Mapping[str, Any]) -> Any:
    """The array at a path, placed as `leaf`, from the leaves of each block."""
    parts = [leaves[name] for name in file_layout.block_paths(path)]
    if len(parts) == 1:
        return file_layout.pad_vocabulary(parts[0], leaf)
    return np.stack(parts) if isinstance(leaf, np.ndarray) else jax.device_put(jnp.stack(parts), leaf.sharding)


def _read(folder: Path, **arguments: Any) -> Any:
    import orbax.checkpoint as ocp

    this = jax.process_index()  # each process reads for itself, and waits for no other
    alone = ocp.options.MultiprocessingOptions(this, {this}, barrier_sync_key_prefix=f"reader {this}")
    reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler(), multiprocessing_options=alone)
    with reader, readable(f"the checkpoint {folder}"):
        return reader.restore(folder, args=ocp.args.Composite(**arguments))


def _read_json(folder: Path, item: str) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    found = _read(folder, **{item: ocp.args.JsonRestore()})[item]
    if not isinstance(found, dict):
        raise UserError(f"the checkpoint {folder} cannot be read: its {item} is {found!r}, expected an object")
    return found
