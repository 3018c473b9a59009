"""The stage `initialize`: a folder that every later stage reads as it reads any model."""

import dataclasses

import pytest

from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load_pretrained
from rlhf_jax.stages import initialize
from tests import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return initialize.Config(
        stage="initialize",
        data=tiny.write_data(tmp_path_factory.mktemp("data")),
        vocabulary=300,
        width=16,
        layers=1,
        heads=2,
        kv_heads=1,
        mlp_features=24,
        max_length=64,
        seed=3,
    )


def test_it_leaves_a_model_and_its_tokenizer(config, tmp_path):
    initialize.run(config, tmp_path)
    model, params = load_pretrained(str(tmp_path / "model"))
    a = model.architecture
    assert (a.vocabulary, a.width, a.layers, a.heads, a.kv_heads, a.head_dim, a.tied) == (300, 16, 1, 2, 1, 8, True)
    assert len(load_tokenizer(str(tmp_path / "model"))) == a.vocabulary
    weights = tmp_path / "model" / "model.safetensors"
    written, at = weights.read_bytes(), weights.stat().st_mtime_ns
    initialize.run(config, tmp_path)
    assert weights.stat().st_mtime_ns == at
    initialize.run(config, tmp_path / "again")
    assert (tmp_path / "again" / "model" / "model.safetensors").read_bytes() == written
    initialize.run(dataclasses.replace(config, seed=4), tmp_path / "other")
    assert (tmp_path / "other" / "model" / "model.safetensors").read_bytes() != written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3, "heads": 4}, "width 16, 4 heads and 3 kv_heads, expected kv_heads to divide heads"),
        ({"heads": 3, "kv_heads": 1}, "width 16, 3 heads and 1 kv_heads"),
        ({"vocabulary": 20000}, "expected enough text for 20000"),
    ],
)
def test_what_makes_no_model_is_refused_and_leaves_none(config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        initialize.run(dataclasses.replace(config, **changes), tmp_path)
    assert not (tmp_path / "model").exists()
