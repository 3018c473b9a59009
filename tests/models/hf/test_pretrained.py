"""Hugging Face to parameters and back is the identity. What is missing, foreign or misshapen is named."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file, save_file

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load, load_pretrained, save_pretrained
from tests import tiny

FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`(folder, tensors)` of a tied network. Copy the folder to change it."""
    folder = tmp_path_factory.mktemp("saved")
    save_pretrained(folder, *tiny.network())
    return folder, load_file(folder / "model.safetensors")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved[0], tmp_path / "model")


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False}, {"kv_heads": 4}, {"kv_heads": 1, "tied": False, "head_dim": 12}]
)
def test_there_and_back_is_the_identity(tmp_path, changes):
    """Invariant 15, tensor by tensor and bit by bit: tied and untied, with one, two and all KV heads."""
    model, params = tiny.network(0.0, **changes)
    save_pretrained(tmp_path / "first", model, params)
    loaded_model, loaded = load_pretrained(str(tmp_path / "first"))
    assert loaded_model == model
    tiny.assert_same(loaded, params)
    save_pretrained(tmp_path / "second", loaded_model, loaded)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert sorted(first) == sorted(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    configs = [(tmp_path / name / "config.json").read_text() for name in ("first", "second")]
    assert configs[0] == configs[1]


def test_the_trunk_comes_in_the_compute_dtype_and_the_top_in_float32(saved):
    folder, _ = saved
    loaded = load(str(folder), tiny.FREEZE, BFLOAT16)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.trunk)} == {BFLOAT16}
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.top)} == {FLOAT32}
    _, params = tiny.network()
    trunk, top = loaded.model.split(params)
    tiny.assert_same(loaded.top, top)
    tiny.assert_same(loaded.trunk, jax.tree.map(lambda leaf: leaf.astype(BFLOAT16), trunk))


def test_a_fingerprint_is_of_the_frozen_source_tensors_alone(saved, folder):
    """Neither the compute dtype nor a trained tensor changes it. Any frozen tensor does."""
    place, tensors = saved
    fingerprint = load(str(place), tiny.FREEZE, FLOAT32).fingerprint
    assert load(str(place), tiny.FREEZE, BFLOAT16).fingerprint == fingerprint
    assert load(str(place), 0.0, FLOAT32).fingerprint == "none"
    assert load(str(place), 0.7, FLOAT32).fingerprint != fingerprint
    for name, same in {
        "model.norm.weight": True,
        "model.layers.1.mlp.up_proj.weight": True,
        "model.layers.0.mlp.up_proj.weight": False,
        "model.embed_tokens.weight": False,
    }.items():
        save_file({**tensors, name: tensors[name] + np.float32(1e-3)}, folder / "model.safetensors")
        assert (load(str(folder), tiny.FREEZE, FLOAT32).fingerprint == fingerprint) == same, name


def test_shards_are_read_by_their_index(saved, folder):
    _, tensors = saved
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    tiny.assert_same(load_pretrained(str(folder))[1], load_pretrained(str(saved[0]))[1])
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match="model-1.safetensors: no such file"):
        load_pretrained(str(folder))
    for broken in ('{"weight_map": ', "{}"):
        index.write_text(broken)
        with pytest.raises(UserError, match="model.safetensors.index.json"):
            load_pretrained(str(folder))


def test_a_folder_that_is_written_anew_never_holds_parts_of_two_models(saved, folder, monkeypatch):
    """Not even when the process is killed between two shards. What is no model's stays."""
    (folder / "README.md").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, params = tiny.network(seed=1)
    written = []

    def save_one(tensors, path, metadata):
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(safetensors.numpy, "save_file", save_one)
        save_pretrained(folder, model, params, shard_bytes=20_000)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save_pretrained(folder, model, params, shard_bytes=20_000)
    assert not (folder / "model.safetensors").exists() and (folder / "README.md").read_text() == "mine"
    tiny.assert_same(load_pretrained(str(folder))[1], params)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_carries_no_information_may_be_there(saved, folder):
    """What old exports store, and the head of a tied network written out."""
    _, tensors = saved
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "model.layers.0.self_attn.masked_bias": np.ones(1, np.float32),
        "model.decoder.version": np.ones(1, np.float32),
        "lm_head.weight": tensors["model.embed_tokens.weight"].copy(),
    }
    save_file({**tensors, **extra}, folder / "model.safetensors")
    tiny.assert_same(load_pretrained(str(folder))[1], load_pretrained(str(saved[0]))[1])


def test_a_tied_network_with_another_head_in_its_file_has_that_head(saved, folder, tmp_path):
    """As in transformers, which warns. And an export keeps it."""
    _, tensors = saved
    head = tensors["model.embed_tokens.weight"][::-1].copy()
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors")
    model, params = load_pretrained(str(folder))
    np.testing.assert_array_equal(model.head_table(params), head)
    save_pretrained(tmp_path / "out", model, params)
    assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"], head)


def test_a_model_is_written_into_the_folder_that_one_is_in(tmp_path, monkeypatch):
    """It is the same folder after it, with what else was in it."""
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    model, params = tiny.network(layers=1)
    save_pretrained(".", model, params)
    save_pretrained(".", model, params)
    assert load_pretrained(".")[0] == dataclasses.replace(model, freeze=0.0)
    assert (tmp_path / "notes.txt").read_text() == "mine" and not (tmp_path.parent / ".partial").exists()


def test_missing_and_unexpected_tensors_are_named(saved, folder):
    _, tensors = saved
    for tensor, message in {
        "model.layers.1.mlp.up_proj.weight": "1 tensors are missing: model.layers.1.mlp.up_proj.weight",
        "model.layers.3.mlp.up_proj.weight": "1 tensors are unexpected: model.layers.3.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias": "1 tensors are unexpected: model.layers.0.self_attn.q_proj.bias",
    }.items():
        changed = {**tensors, tensor: np.ones(3, np.float32)}
        if tensor in tensors:
            del changed[tensor]
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(UserError, match=f"{folder}: {message}"):
            load_pretrained(str(folder))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (299, 32)),
        ("model.layers.0.self_attn.q_proj.weight", (24, 32)),
        ("model.layers.1.mlp.down_proj.weight", (48, 32)),
    ],
)
def test_wrong_shapes_are_named(saved, folder, name, shape):
    _, tensors = saved
    save_file({**tensors, name: np.ones(shape, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"{folder}: .*shape") as error:
        load_pretrained(str(folder))
    assert str(shape[0]) in str(error.value)


def test_weights_that_are_missing_or_cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors: not a readable safetensors file"):
        load_pretrained(str(folder))
    weights.unlink()
    with pytest.raises(UserError, match="neither model.safetensors nor pytorch_model.bin is there; expected weights"):
        load_pretrained(str(folder))
