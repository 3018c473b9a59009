"""Every leaf of every config, and every damage to every input file: a sentence or a result, never a traceback."""

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from rlhf_jax.data.records import Example, Preference, Samples, read, read_objects, write
from rlhf_jax.data.sources.files import read_rows
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.encoders.sentence import load_encoder
from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load_pretrained
from rlhf_jax.report.alpaca_eval import read_annotations, read_outputs
from rlhf_jax.stages.runner import check
from rlhf_jax.training.checkpoint import load_top
from tests import tiny
from tests.encoders.test_sentence import write_encoder
from tests.test_configs import VARIANTS, load

pytestmark = pytest.mark.soak

VALUES = (
    None,
    True,
    -1,
    0,
    2,
    10**30,
    -0.5,
    1.5,
    math.nan,
    math.inf,
    "",
    "x",
    "\ud83d",
    (),
    (0,),
    (2, 1),
    {},
    {"a": 1},
)


def leaves(config: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a config, sections too."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield (*path, key)
        yield from leaves(value, (*path, key))


def refuses_or_takes(action: Callable[[], Any]) -> str:
    """What is wrong with how an action ended: "" for a result or a sentence."""
    try:
        action()
    except UserError as error:
        return "" if str(error).strip() and "\n" not in str(error) else f"no sentence: {str(error)!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name, argument in VARIANTS if argument is None])
def test_any_value_of_any_key_is_taken_or_refused(name: str, argument: str | None) -> None:
    _, config = load(name, argument)
    wrong = {}
    for path in leaves(config):
        for value in VALUES:
            changed = copy.deepcopy(config)
            section = changed
            for key in path[:-1]:
                section = section[key]
            section[path[-1]] = value
            if said := refuses_or_takes(lambda changed=changed: check(changed, Path("study"))):
                wrong[f"{'.'.join(map(str, path))}={value!r}"] = said
    assert wrong == {}


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """The kinds of damage to a file, by name."""
    yield from {
        "empty": b"",
        "a blank line": b"\n",
        "null": b"null",
        "a number": b"7",
        "an object": b"{}",
        "a list": b"[]",
        "nested": b"[" * 5000,
        "a list of objects": b"[{}]",
        "zeros": bytes(64),
        "not UTF-8": b"\xff\xfe" + whole,
        "half a character": b'{"id": "\\ud83d"}\n',
        "html": b"<!doctype html><title>404</title>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }.items()
    for part in (0.1, 0.5, 0.99):
        yield f"cut at {part}", whole[: int(part * len(whole))]
    middle = len(whole) // 2
    yield "a byte flipped", whole[:middle] + bytes([whole[middle] ^ 0x41]) + whole[middle + 1 :]
    for old, new in ((b'"', b"'"), (b":", b"="), (b"1", b"-1"), (b"1", b'"1"'), (b"true", b"null"), (b"[", b"{")):
        yield f"{old!r} as {new!r}", whole.replace(old, new)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """Folders of every kind of input, each with the function that reads it."""
    root = tmp_path_factory.mktemp("inputs")
    model = Path(tiny.write_model(root / "model"))
    encoder = write_encoder(root / "encoder")
    _, params = tiny.network(layers=2)
    run = Path(
        tiny.write_run(root / "run", params, {"base": str(model), "freeze": 0.5, "role": "policy", "trunk": "t"})
    )
    records = root / "records"
    records.mkdir()
    write(records / "examples.jsonl", tiny.examples({"train": 3}))
    write(records / "preferences.jsonl", [Preference("a", "train", "p", "c", "r")])
    write(records / "samples.jsonl", [tiny.samples("a", ["x", "y"], rewards=[0.1, 1.0])])
    outputs = [{"instruction": "i", "output": "o", "generator": "g"}]
    sides = {"output_1": "a", "generator_1": "r", "output_2": "o", "generator_2": "g"}
    (records / "outputs.json").write_text(json.dumps(outputs))
    (records / "annotations.json").write_text(
        json.dumps([{"instruction": "i", **sides, "annotator": "j", "preference": 1.0}])
    )
    (records / "rows.csv").write_text('a,b\n1,"x, y"\n')

    def all_records(folder: Path) -> None:
        for name, reader in {
            "examples.jsonl": lambda path: read(path, Example),
            "preferences.jsonl": lambda path: read(path, Preference),
            "samples.jsonl": lambda path: (read(path, Samples), read_objects(path)),
            "outputs.json": read_outputs,
            "annotations.json": read_annotations,
            "rows.csv": read_rows,
        }.items():
            reader(folder / name)

    return {
        "model": (model, lambda folder: load_pretrained(str(folder))),
        "tokenizer": (model, lambda folder: load_tokenizer(str(folder))),
        "encoder": (encoder, lambda folder: load_encoder(str(folder))(["w1 w2"])),
        "run": (run, load_top),
        "records": (records, all_records),
    }


@pytest.mark.parametrize("kind", ["model", "tokenizer", "encoder", "run", "records"])
def test_any_damage_to_any_file_is_a_sentence(inputs: dict, kind: str, tmp_path: Path) -> None:
    source, reader = inputs[kind]
    wrong = {}
    for file in sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file()):
        for name, content in [*damages((source / file).read_bytes()), ("a folder", None), ("missing", None)]:
            folder = shutil.copytree(source, tmp_path / "copy")
            (folder / file).unlink()
            if content is not None:
                (folder / file).write_bytes(content)
            elif name == "a folder":
                (folder / file).mkdir()
            if said := refuses_or_takes(lambda folder=folder: jax.block_until_ready(reader(folder))):
                wrong[f"{file}, {name}"] = said
            shutil.rmtree(folder)
    assert wrong == {}
