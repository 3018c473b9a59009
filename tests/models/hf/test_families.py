"""A `config.json` is read whole or refused: nothing that changes the result is passed over."""

import json

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models.architecture import Rotary
from rlhf_jax.models.hf import families
from rlhf_jax.models.hf.families import from_hugging_face, read_config, to_hugging_face
from tests import tiny
from tests.families import FAMILIES, LLAMA3, OPT
from tests.models.hf.test_presets import llama

LLAMA_7B = llama(32000, 4096, 32, 32, 11008, 1e-6, 2048)


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_transformers_reads_the_same_from_what_is_written(tmp_path, changes):
    """Its own config class writes it back, in its newer form, to the same architecture."""
    import transformers

    architecture = tiny.architecture(**changes)
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(architecture)))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert from_hugging_face(json.loads(config.to_json_string(use_diff=False)), "config.json") == architecture


QWEN2 = {**LLAMA_7B, "model_type": "qwen2", "sliding_window": 64, "num_hidden_layers": 4, "max_window_layers": 1}
SLIDING = ["sliding_attention", "full_attention", "full_attention", "full_attention"]


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, ()),
        ({"use_sliding_window": True}, (None, 64, 64, 64)),
        ({"use_sliding_window": True, "max_window_layers": 4}, ()),
        ({"use_sliding_window": True, "layer_types": SLIDING}, (64, None, None, None)),
    ],
)
def test_windows_of_qwen(changes, windows):
    assert from_hugging_face({**QWEN2, **changes}, "config.json").windows == windows


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "opt"])
def test_what_a_config_leaves_out_is_what_transformers_takes_for_it(family):
    """The sizes alone are given. All that `FAMILIES` adds is compared with transformers' own config class."""
    import transformers

    sizes = {"vocab_size": 96, "hidden_size": 8192, "num_hidden_layers": 30, "num_attention_heads": 64}
    sizes |= {"max_position_embeddings": 64, "use_sliding_window": True}
    sizes |= {"ffn_dim": 48} if family == "opt" else {"intermediate_size": 48, "rms_norm_eps": 1e-5}
    theirs = transformers.AutoConfig.for_model(family, **sizes).to_dict()
    minimal = from_hugging_face({"model_type": family, **sizes}, "config.json")
    assert minimal == from_hugging_face({**theirs, "model_type": family}, "config.json")


class Recorded(dict):
    """A dict that notes the keys it is asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key):
        self.asked.add(key)
        return super().get(key)


# Training alone, or generation: the tokenizer has the ids.
NO_EFFECT = {
    "attention_dropout",
    "dropout",
    "layerdrop",
    "initializer_range",
    "init_std",
    "use_cache",
    "pretraining_tp",
}
NO_EFFECT |= {"bos_token_id", "eos_token_id", "pad_token_id"}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "opt"])
def test_no_field_of_transformers_config_class_is_passed_over(family):
    """Each is read, has one value that is accepted, or changes no forward pass."""
    import transformers

    ours, theirs = families.FAMILIES[family], transformers.AutoConfig.for_model(family).to_dict()
    own = theirs.keys() - transformers.PreTrainedConfig().to_dict().keys() - NO_EFFECT
    fields = families.Fields(theirs | {"use_sliding_window": True}, ours.defaults)
    fields._values = Recorded(fields._values)
    ours.read(fields)
    assert own - fields._values.asked - ours.required.keys() == set()


def test_mistral_slides_unless_it_says_not_to():
    """The default of transformers is 4096. The later releases of the model say null."""
    config = {**LLAMA_7B, "model_type": "mistral"}
    assert from_hugging_face(config, "config.json").windows == (4096,) * 32
    assert from_hugging_face({**config, "sliding_window": None}, "config.json").windows == ()


def test_the_stretched_frequencies_of_llama_3():
    """Long wavelengths eight times longer, short ones as they were, and in between a line in the inverse wavelength."""
    plain, stretched = (rotary.frequencies(128).astype(np.float64) for rotary in (Rotary(5e5), LLAMA3))
    turns = 8192 * plain / (2 * np.pi)
    between = (turns > 1) & (turns < 4)
    share = (turns[between] - 1) / 3
    assert between.sum() > 2
    np.testing.assert_allclose(stretched[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    np.testing.assert_array_equal(stretched[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(stretched[between], plain[between] * (share + (1 - share) / 8), rtol=1e-6)


def test_the_original_length_may_stand_beside_the_scaling():
    """Where transformers, too, looks first."""
    stretch = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for config in (
        {"rope_scaling": {**stretch, "original_max_position_embeddings": 512}},
        {"rope_scaling": {**stretch, "original_max_position_embeddings": 9}, "original_max_position_embeddings": 512},
    ):
        assert from_hugging_face({**LLAMA_7B, **config}, "config.json").rotary.original_length == 512


@pytest.mark.parametrize("changes", [OPT, {"rotary": Rotary(1e4, "dynamic", 2.0)}])
def test_rows_beyond_the_last_position_are_refused(changes):
    model, params = tiny.network(0.0, layers=2, **changes)
    tokens = np.ones((1, 257), np.int32)
    with pytest.raises(UserError, match="rows are 257 tokens long, padding included, and this network has 256 positi"):
        model.logits(params, tokens, tokens > 0)
    tiny.network(0.0, rotary=LLAMA3)[0].check_length(100_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; supported: 'llama', 'mistral', 'qwen2', 'qwen3', 'opt'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type is 'yarn'; supported: 'default', 'linear'"),
        ({"rope_scaling": {"type": "linear"}}, "the field 'factor' is missing"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "the field 'low_freq_factor' is missing"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .*only None"),
        ({"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["chunked"] * 32}, "layer_types is "),
        ({"vocab_size": "32000"}, "vocab_size is '32000'; expected a whole number of at least 1"),
        ({"attention_bias": 1}, "attention_bias is 1; expected true or false"),
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_window is -1; expected a whole number"),
        ({"model_type": "qwen2", "sliding_window": 0}, "sliding_window is 0; expected a whole number of at least 1"),
        (
            {"model_type": "qwen3", "layer_types": ["sliding_attention"] * 32},
            "layer_types has 'sliding_attention', and",
        ),
        ({"layer_types": ["sliding_attention"] * 32}, "layer_types is .*; only None is supported"),
        ({"is_causal": False}, "is_causal is False; only True is supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "the rotary positions have full_attention "),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "attention_factor": 2.0}}, "the rotary positions have att"),
        ({"num_attention_heads": 33}, "33 attention heads do not divide hidden_size 4096"),
        ({"head_dim": 33}, "head_dim is 33; rotary positions need an even one"),
        ({"num_key_value_heads": 5}, "5 key-value heads do not divide 32 attention heads"),
    ],
)
def test_what_would_change_the_result_is_refused(changes, message):
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        from_hugging_face({**LLAMA_7B, **changes}, "config.json")


@pytest.mark.parametrize("field", [name for name in LLAMA_7B if name not in ("model_type", "hidden_act")])
def test_a_missing_field_is_named(field):
    config = {name: value for name, value in LLAMA_7B.items() if name != field}
    with pytest.raises(UserError, match=f"the field '{field}' is missing"):
        from_hugging_face(config, "config.json")


def test_a_folder_without_a_readable_config(tmp_path):
    with pytest.raises(UserError, match="no config.json; expected a Hugging Face model folder"):
        read_config(tmp_path)
    for content, said in {
        b'{"model_type": ': "not valid JSON",
        b"\xff": "not valid JSON",
        b"[]": "holds list, expected an object",
    }.items():
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(UserError, match=f"config.json: {said}"):
            read_config(tmp_path)
