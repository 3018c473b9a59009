"""What a run trained, given back to transformers: names, ids and numbers."""

import json

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import REWARD_PAD, load_pretrained
from rlhf_jax.models.transformer import merge
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling.score import make_edge_score
from rlhf_jax.stages import export
from rlhf_jax.training.load import describe, load_base
from tests import numpy_llama, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny.write_model(tmp_path_factory.mktemp("model"))


def trained(folder, model: str, role: str, **meta) -> tuple[str, dict]:
    """A run's folder whose top is a nudged one, and all its parameters."""
    base = load_base(model, tiny.FREEZE, "float32")
    top = jax.tree.map(lambda leaf: leaf + 0.05, base.top)
    top = tiny.with_role(top, "reward" if role == "reward" else "value")
    return tiny.write_run(folder, top, {**describe(base, role), **meta}), merge(base.trunk, top)


def exported(tmp_path, model: str, run: str, dtype: str = "float32"):
    export.run(export.Config("export", model, run, dtype), tmp_path / "export")
    return tmp_path / "export" / "model"


def test_a_policy_comes_back_whole(tmp_path, model):
    """Trunk and top in one folder, the value head left out, the tokenizer and the special ids beside."""
    run, params = trained(tmp_path / "run", model, "policy")
    folder = exported(tmp_path, model, run)
    _, loaded = load_pretrained(str(folder))
    tiny.assert_same(loaded, {key: params[key] for key in loaded})
    assert "value" not in loaded
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.eos_token_id
    assert transformers.AutoConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id


def test_a_reward_model_scores_the_last_token_that_is_not_its_pad(tmp_path, model):
    """By transformers' rule on right-padded ids, in float64: the raw scores of this project, whatever ends a row."""
    run, params = trained(tmp_path / "run", model, "reward", mean=0.5, std=2.0)
    folder = exported(tmp_path, model, run)
    tensors = {name: tensor.astype(np.float64) for name, tensor in load_file(folder / "model.safetensors").items()}
    config = transformers.AutoConfig.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert config.architectures == ["LlamaForSequenceClassification"]
    assert (config.num_labels, config.reward_mean, config.reward_std) == (1, 0.5, 2.0)
    assert tokenizer.pad_token == REWARD_PAD
    assert config.pad_token_id == tokenizer.pad_token_id == config.vocab_size - 1
    assert len(tensors["model.embed_tokens.weight"]) == config.vocab_size
    assert "lm_head.weight" not in tensors

    base = load_base(model, tiny.FREEZE, "float32")
    batch = tiny.sequences([4, 2], [[3, 5], [1, 5]], 6, 5)
    score = make_edge_score(base.model, base.model.split(params)[1], 0.0, 1.0)
    actual = np.asarray(score(base.trunk, batch, jit(base.model.trunk)(base.trunk, batch)))
    for row, sample in np.ndindex(2, 2):
        padded = [*tiny.ids(batch, row, sample), *[config.pad_token_id] * 3]
        last = max(i for i, token in enumerate(padded) if token != config.pad_token_id)
        states = numpy_llama.hidden_states(tensors, base.model.architecture, padded[: last + 1])
        assert actual[row, sample] == pytest.approx(float(states[-1] @ tensors["score.weight"][0]), abs=1e-4)


def test_bad_input_is_a_sentence(tmp_path, model):
    run, _ = trained(tmp_path / "run", model, "reward")
    with pytest.raises(UserError, match="config.dtype is 'int8', expected one of float32"):
        exported(tmp_path, model, run, "int8")
    with pytest.raises(UserError, match="has no normalisation constants; let its training end first"):
        exported(tmp_path, model, run)
    assert not (tmp_path / "export" / "model").exists()
