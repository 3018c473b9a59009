"""The presets are what the configs on the hub say, and as large as those models are known to be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.models.hf.families import from_hugging_face
from rlhf_jax.models.hf.presets import PRESETS
from rlhf_jax.models.transformer import Model
from rlhf_jax.parallel.devices import count_parameters


def llama(vocabulary: int, width: int, layers: int, heads: int, features: int, epsilon: float, length: int, **more):
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": features,
        "rms_norm_eps": epsilon,
        "max_position_embeddings": length,
        "hidden_act": "silu",
        **more,
    }


def opt(width: int, layers: int, heads: int, features: int, **more):
    return {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "ffn_dim": features,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": width,
        "do_layer_norm_before": True,
        "activation_function": "relu",
        **more,
    }


# The fields of each config.json that change the result, and how many parameters transformers counts.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": (
        llama(49152, 576, 30, 9, 1536, 1e-5, 8192, num_key_value_heads=3, rope_theta=100000, tie_word_embeddings=True),
        134_515_008,
    ),
    "huggyllama/llama-7b": (llama(32000, 4096, 32, 32, 11008, 1e-6, 2048), 6_738_415_616),
    "meta-llama/Meta-Llama-3-8B": (
        llama(128256, 4096, 32, 32, 14336, 1e-5, 8192, num_key_value_heads=8, rope_theta=500000.0),
        8_030_261_248,
    ),
    "facebook/opt-125m": (opt(768, 12, 12, 3072), 125_239_296),
    "facebook/opt-350m": (opt(1024, 24, 16, 4096, word_embed_proj_dim=512, do_layer_norm_before=False), 331_196_416),
    "facebook/opt-1.3b": (opt(2048, 24, 32, 8192), 1_315_758_080),
    "facebook/opt-2.7b": (opt(2560, 32, 32, 10240), 2_651_596_800),
    "facebook/opt-6.7b": (opt(4096, 32, 32, 16384), 6_658_473_984),
}


def test_every_preset_is_held_against_its_config():
    assert set(PRESETS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_what_its_config_reads_as_and_has_as_many_parameters_as_the_model(name):
    config, parameters = PUBLISHED[name]
    assert PRESETS[name] == from_hugging_face(config, "config.json")
    model = Model(PRESETS[name], jnp.dtype("bfloat16"))
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0)))
    assert count_parameters(shapes) == parameters
