"""A Hugging Face folder with PyTorch's own files holds what one with safetensors holds."""

import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load, load_pretrained, save_pretrained
from tests import tiny, torch_save

FLOAT32 = jnp.dtype("float32")


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safe")
    save_pretrained(folder, *tiny.network())
    return folder


@pytest.fixture
def folder(safe, tmp_path):
    """A folder with the config alone."""
    (tmp_path / "model").mkdir()
    shutil.copy(safe / "config.json", tmp_path / "model")
    return tmp_path / "model"


def write_torch(path, tensors: dict[str, np.ndarray]) -> None:
    """One storage a tensor, as torch.save lays them out."""
    entries, records = {}, {}
    for key, (name, array) in enumerate(tensors.items()):
        strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
        within = torch_save.storage(str(key), array.size)
        entries[name] = torch_save.tensor(array.shape, strides, within=within)
        records[f"data/{key}"] = array.tobytes()
    torch_save.write(path, entries, records)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_torch_file_is_the_safetensors_file(safe, folder, prefix):
    """Also one of the network without its head, whose names lack the prefix."""
    tensors = load_file(safe / "model.safetensors")
    write_torch(folder / "pytorch_model.bin", {prefix + n.removeprefix("model."): t for n, t in tensors.items()})
    actual, expected = (load(str(place), tiny.FREEZE, FLOAT32) for place in (folder, safe))
    tiny.assert_same((actual.trunk, actual.top), (expected.trunk, expected.top))
    assert actual.fingerprint == expected.fingerprint


def test_torch_shards_are_read_by_their_index(safe, folder):
    tensors = load_file(safe / "model.safetensors")
    files = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        write_torch(folder / file, {name: tensors[name] for name in tensors if files[name] == file})
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    tiny.assert_same(load_pretrained(str(folder))[1], load_pretrained(str(safe))[1])
    (folder / "pytorch_model-1.bin").unlink()
    with pytest.raises(UserError, match="pytorch_model-1.bin: no such file"):
        load_pretrained(str(folder))
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.bin"}}))
    with pytest.raises(UserError, match=r"'../elsewhere.bin' is not a file of this folder"):
        load_pretrained(str(folder))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_found_when_asked(safe, folder, bad):
    tensors = load_file(safe / "model.safetensors")
    tensors["model.norm.weight"][3] = bad
    save_file(tensors, folder / "model.safetensors")
    load_pretrained(str(folder))
    with pytest.raises(UserError, match="model.norm.weight holds numbers that are not finite"):
        load_pretrained(str(folder), check_finite=True)
    load_pretrained(str(safe), check_finite=True)


def test_a_large_model_is_written_in_shards(safe, tmp_path):
    """Each file within the limit, all tensors in the index, and the same network again."""
    model, params = load_pretrained(str(safe))
    save_pretrained(tmp_path, model, params, shard_bytes=40_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 40_000 for file in files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    tiny.assert_same(load_pretrained(str(tmp_path))[1], params)


def test_an_export_leaves_nothing_of_the_one_before_it(safe, tmp_path):
    """Whether it comes in more files or in fewer: neither reader here nor transformers' may find the old weights."""
    old = load_pretrained(str(safe))
    new = tiny.network(0.0, seed=1)
    for first, second in ((1_000_000_000, 40_000), (40_000, 1_000_000_000)):
        save_pretrained(tmp_path, *old, shard_bytes=first)
        save_pretrained(tmp_path, *new, shard_bytes=second)
        tiny.assert_same(load_pretrained(str(tmp_path))[1], new[1])
        single = (tmp_path / "model.safetensors").exists()
        assert single != (tmp_path / "model.safetensors.index.json").exists()
        assert single == (second > 40_000)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool"])
def test_tensors_that_are_no_floats_are_refused(safe, folder, dtype):
    """Quantised weights whose config does not say so."""
    tensors = load_file(safe / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(dtype)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"model.norm.weight has the dtype {dtype}, expected one of float32, bfloat16"):
        load_pretrained(str(folder))
