"""Sentence encoders by onnxruntime: a small network, built here, as a published folder has it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.encoders.onnx import OnnxEncoder
from rlhf_jax.encoders.sentence import load_encoder
from rlhf_jax.errors import UserError
from tests.encoders.test_sentence import WIDTH, WORDS, ids, numbered, write_encoder

TABLES = {name: np.random.default_rng(seed).normal(size=(len(WORDS), WIDTH)) for seed, name in enumerate("ab")}
MAX_LENGTH = 20


def oracle(text: str, pooling: str) -> np.ndarray:
    """A token's state is its row of the first table and the mean of all tokens' rows of the second."""
    tokens = np.array(ids(text))
    tokens = np.concatenate([tokens[: MAX_LENGTH - 1], tokens[-1:]]) if len(tokens) > MAX_LENGTH else tokens
    states = TABLES["a"][tokens] + TABLES["b"][tokens].mean(axis=0)
    pooled = {"mean_tokens": states.mean(axis=0), "cls_token": states[0], "max_tokens": states.max(axis=0)}[pooling]
    return pooled / np.linalg.norm(pooled)


def network(inputs=("input_ids", "attention_mask", "token_type_ids"), hidden="last_hidden_state") -> bytes:
    """The network of `oracle` in ONNX."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'rlhf_jax[onnx]'")
    from onnx import TensorProto, helper, numpy_helper

    constants = {f"table_{name}": table.astype(np.float32) for name, table in TABLES.items()}
    constants |= {"one": np.array([1], np.int64), "last": np.array([-1], np.int64)}
    nodes = [
        helper.make_node("Gather", ["table_a", "input_ids"], ["own"]),
        helper.make_node("Gather", ["table_b", "input_ids"], ["others"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["others", "weights"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "one"], ["sum"]),
        helper.make_node("ReduceSum", ["weights", "one"], ["count"]),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Add", ["own", "mean"], [hidden]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in inputs],
        [helper.make_tensor_value_info(hidden, TensorProto.FLOAT, ["B", "T", WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose network the test writes."""
    write_encoder(tmp_path, longest=MAX_LENGTH)
    (tmp_path / "model.safetensors").unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("pooling", "inputs", "hidden"),
    [
        ("mean_tokens", ("input_ids", "attention_mask", "token_type_ids"), "last_hidden_state"),
        ("cls_token", ("input_ids", "attention_mask"), "token_embeddings"),
        ("max_tokens", ("attention_mask", "input_ids"), "last_hidden_state"),
    ],
)
def test_vectors_are_the_networks_states_pooled_over_real_tokens(folder, pooling, inputs, hidden):
    write_encoder(folder, "bert", pooling, MAX_LENGTH)
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(network(inputs, hidden))
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, OnnxEncoder)
    texts = [text for words in (0, 1, 5, 14, 17, 18, 19, 40) for text in numbered(3, words, seed=words)]
    vectors = encoder(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.stack([oracle(text, pooling) for text in texts]), atol=1e-6)
    assert encoder([]).shape == (0, WIDTH)


def test_safetensors_come_first(folder):
    write_encoder(folder)
    (folder / "model.onnx").write_bytes(b"not looked at")
    assert not isinstance(load_encoder(str(folder)), OnnxEncoder)


def test_without_onnxruntime_the_message_says_how_to_get_it(folder, monkeypatch):
    (folder / "model.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"model.onnx needs onnxruntime, run: pip install 'rlhf_jax\[onnx\]'"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ("input_ids", "attention_mask", "position_ids")}, "takes attention_mask, input_ids, position_ids"),
        ({"hidden": "logits"}, "gives logits, expected last_hidden_state or token_embeddings among them"),
    ],
)
def test_another_network_is_refused(folder, change, message):
    (folder / "model.onnx").write_bytes(network(**change))
    with pytest.raises(UserError, match=message):
        load_encoder(str(folder))


def test_a_broken_file_is_refused(folder):
    (folder / "model.onnx").write_bytes(network()[:100])
    with pytest.raises(UserError, match="model.onnx is no network that onnxruntime reads"):
        load_encoder(str(folder))
