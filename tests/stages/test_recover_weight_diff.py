"""A released difference becomes what the other stages load: a policy's folder, or a reward model's run."""

import json

import numpy as np
import pytest

from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load_pretrained, save_pretrained
from rlhf_jax.models.hf.sources import FolderSource
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling.score import make_edge_score
from rlhf_jax.stages import recover_weight_diff
from rlhf_jax.training.load import load_base, load_reward
from tests import numpy_llama, released, tiny


def config_of(base: str, difference, dtype: str = "float32") -> recover_weight_diff.Config:
    return recover_weight_diff.Config("recover_weight_diff", base, str(difference), dtype)


def test_a_policy_is_a_model_folder_with_its_tokenizer(tmp_path, capsys):
    base, difference, tuned = released.write(tmp_path)
    config = config_of(base, difference, "bfloat16")
    recover_weight_diff.run(config, tmp_path / "run")
    written = FolderSource(tmp_path / "run" / "model")
    assert written.names() == tuned.keys()
    for name, tensor in tuned.items():
        np.testing.assert_allclose(written.tensor(name).astype(np.float32), tensor, rtol=2**-8, atol=2e-6)
    assert load_pretrained(str(tmp_path / "run" / "model"))[0].architecture.vocabulary == tiny.VOCABULARY + 1
    tokenizer = load_tokenizer(str(tmp_path / "run" / "model"))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", tiny.VOCABULARY)
    assert not (tmp_path / "run" / "checkpoints").exists()
    capsys.readouterr()
    recover_weight_diff.run(config, tmp_path / "run")
    assert capsys.readouterr().out == f"{tmp_path / 'run'} is complete, nothing to do.\n"


def test_a_reward_model_scores_as_its_head_and_bias_say(tmp_path):
    """On a policy of its architecture with nothing frozen. The numbers by NumPy from the tuned model's tensors."""
    base, difference, tuned = released.write(tmp_path, reward=True)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "half").write_text("of a run that was killed")
    recover_weight_diff.run(config_of(base, difference), run)
    assert json.loads((run / "sum.json").read_text())["sum"] == pytest.approx(
        float((difference / "model_sum.txt").read_text()), abs=1e-3
    )

    model, params = tiny.network(tied=False, layers=2, vocabulary=tiny.VOCABULARY + 1, seed=3)
    save_pretrained(tmp_path / "policy", model, params)
    policy = load_base(str(tmp_path / "policy"), 0.0, "float32")
    score = make_edge_score(policy.model, *load_reward(policy, str(run)))
    batch = tiny.sequences([4, 2], [[3, 5], [1, 5]], 6, 5)
    actual = np.asarray(score(policy.trunk, batch, jit(policy.model.trunk)(policy.trunk, batch)))
    tensors = {name: tensor.astype(np.float64) for name, tensor in tuned.items()}
    for row, sample in np.ndindex(2, 2):
        states = numpy_llama.hidden_states(tensors, policy.model.architecture, tiny.ids(batch, row, sample))
        expected = states[-1] @ np.linspace(-1, 1, 32) + 0.75
        assert actual[row, sample] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_right_is_refused_and_leaves_nothing(tmp_path):
    base, difference, _ = released.write(tmp_path)
    with pytest.raises(UserError, match="config.dtype is 'int8', expected one of float32"):
        recover_weight_diff.run(config_of(base, difference, "int8"), tmp_path / "run")
    (difference / "model_sum.txt").write_text("1.0")
    with pytest.raises(UserError, match=r"expected 1.0000 \(model_sum.txt\)"):
        recover_weight_diff.run(config_of(base, difference), tmp_path / "run")
    assert not (tmp_path / "run").exists()
