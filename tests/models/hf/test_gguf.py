"""A GGUF file written here, as llama.cpp's converter would, holds what the Hugging Face folder holds."""

from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.gguf import GGUFSource
from rlhf_jax.models.hf.pretrained import load, save_pretrained
from rlhf_jax.models.hf.sources import FolderSource
from tests import tiny

# Quantised types work in blocks of 32 values.
EPSILON = 2.0**-17  # metadata are float32
SIZES = {"epsilon": EPSILON, "width": 64, "head_dim": 16, "mlp_features": 96, "layers": 2}
NAMES = {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
METADATA = {
    "llama.vocab_size": 300,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.feed_forward_length": 96,
    "llama.context_length": 256,
    "llama.attention.layer_norm_rms_epsilon": EPSILON,
    "llama.rope.freq_base": 10000.0,
}


def in_llama_cpp_order(name: str, tensor: np.ndarray) -> np.ndarray:
    """llama.cpp keeps rotary pairs side by side: within a head, row `2 i + j` is Hugging Face's row `i + j d / 2`."""
    heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    half = tensor.shape[0] // heads // 2
    order = [head * 2 * half + i + j * half for head in range(heads) for i in range(half) for j in range(2)]
    return tensor[order]


def write_gguf(
    path: Path, tensors: dict[str, np.ndarray], kinds=lambda name: Kind.F32, architecture="llama", **metadata
):
    """Tensors under their Hugging Face names, each of the kind that `kinds` says. Metadata of None is left out."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**METADATA, **metadata}.items():
        key = key.replace("llama.", f"{architecture}.")
        if isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for name, tensor in tensors.items():
        inside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        stem, _, kind_of_tensor = name.rpartition(".")
        if stem.startswith("model.layers."):
            layer, rest = stem.removeprefix("model.layers.").split(".", 1)
            inside[stem] = f"blk.{layer}.{NAMES[rest]}"
        kind = kinds(name) if tensor.ndim == 2 else Kind.F32
        ordered = in_llama_cpp_order(name, tensor) if architecture == "llama" else tensor
        writer.add_tensor(f"{inside.get(stem, stem)}.{kind_of_tensor}", quantize(ordered, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    """The Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(folder, *tiny.network(tied=request.param, **SIZES))
    return folder


def kind_of(name: str) -> Kind:
    """Every kind that common files mix, the permuted ones among them."""
    kinds = {"q_proj": Kind.Q4_1, "k_proj": Kind.Q8_0, "embed_tokens": Kind.Q8_0, "down_proj": Kind.F16}
    return kinds.get(name.split(".")[-2], Kind.F32)


@pytest.mark.parametrize("kinds", [lambda name: Kind.F32, kind_of], ids=["float", "quantised"])
def test_tensors_are_those_of_the_folder_widened_and_put_in_order(folder, tmp_path, kinds):
    """Rows are moved after widening, and quantising is by row, so each row is that of the folder's tensor."""
    source = GGUFSource(write_gguf(tmp_path / "model.gguf", load_file(folder / "model.safetensors"), kinds))
    expected = FolderSource(folder)
    assert source.names() == expected.names()
    assert source.architecture == expected.architecture
    for name in source.names():
        tensor, kind = expected.tensor(name), kinds(name)
        if tensor.ndim == 2 and kind != Kind.F32:
            tensor = dequantize(quantize(tensor, kind), kind)
        assert source.tensor(name).dtype == np.float32
        np.testing.assert_array_equal(source.tensor(name), tensor, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "qwen2", "qkv_bias": True},
        {"family": "qwen3", "qk_norm": True},
        {"family": "qwen3", "qk_norm": True, "tied": False},
    ],
)
def test_qwen_comes_in_the_order_of_hugging_face(tmp_path, changes):
    """Biases and norms of heads too. Its rows are not permuted, other than LLaMA's."""
    model, params = tiny.network(0.0, **SIZES, **changes)
    save_pretrained(tmp_path, model, params)
    tensors = load_file(tmp_path / "model.safetensors")
    metadata = {"llama.attention.key_length": 16}
    path = write_gguf(tmp_path / "model.gguf", tensors, architecture=changes["family"], **metadata)
    loaded = load(str(path), 0.0, jnp.dtype("float32"))
    assert loaded.model.architecture == model.architecture
    tiny.assert_same(loaded.top, params)


@pytest.mark.parametrize("extra", ["rope_freqs.weight", "blk.0.attn_q_norm.weight"])
def test_a_tensor_that_has_no_place_is_refused(folder, tmp_path, extra):
    """Llama 3.1 stores its stretched rotary frequencies as a tensor: without them it would be another network."""
    tensors = {**load_file(folder / "model.safetensors"), extra: np.ones(8, np.float32)}
    path = write_gguf(tmp_path / "model.gguf", tensors)
    with pytest.raises(UserError, match=f"1 tensors are unexpected: {extra}"):
        load(str(path), 0.0, jnp.dtype("float32"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, "general.architecture is 'gpt2'; supported: 'llama', 'qwen2', 'qwen3'"),
        ({"llama.block_count": None}, "'block_count' is missing"),
        ({"llama.rope.scaling.type": "yarn"}, "rope_type is 'yarn'; supported: 'default'"),
        ({"llama.rope.scaling.type": "linear"}, "'rope.scaling.factor' is missing"),
        ({"llama.attention.sliding_window": 64}, "attention.sliding_window is 64; only 0 is supported"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8; only 16 is supported"),
        ({"llama.block_count": 3}, "9 tensors are missing: model.layers.2.input_layernorm.weight"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(folder, tmp_path, changes, message):
    path = write_gguf(tmp_path / "model.gguf", load_file(folder / "model.safetensors"), **changes)
    with pytest.raises(UserError, match=message):
        load(str(path), 0.0, jnp.dtype("float32"))


def test_a_file_that_is_no_gguf_or_cut_short_is_refused(folder, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="model.gguf: not a readable GGUF file"):
        GGUFSource(path)
    write_gguf(path, load_file(folder / "model.safetensors"))
    whole = path.read_bytes()
    for share in (0.001, 0.01, 0.5):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match="model.gguf: not a readable GGUF file"):
            GGUFSource(path)
