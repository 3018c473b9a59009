"""A top is put on the trunk it was trained on and on no other."""

import jax
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.training.load import describe, load_base, load_policy, load_reward, load_top_on
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def base(model):
    return load_base(model, tiny.FREEZE, "float32")


def shifted(top):
    return jax.tree.map(lambda leaf: leaf + 1.0, top)


def test_a_policy_is_its_top_on_the_trunk_it_was_trained_on(model, base, tmp_path):
    """A value head stays behind. How much is frozen is the run's own."""
    top = tiny.with_role(shifted(base.top), "value")
    run = tiny.write_run(tmp_path, top, describe(base, "policy"))
    policy = load_policy(model, run, "float32")
    tiny.assert_same(policy.top, shifted(base.top))
    tiny.assert_same(policy.trunk, base.trunk)
    assert policy.model == base.model
    assert policy.fingerprint == base.fingerprint


def test_without_a_run_the_policy_is_the_whole_base_model(model):
    policy = load_policy(model, "", "float32")
    assert policy.trunk == {}
    assert policy.model.freeze == 0.0
    assert {"embed", "layers", "norm"} == set(policy.top)


def test_a_reward_model_comes_with_its_normalisation_and_without_it_is_refused(base, tmp_path):
    top = tiny.with_role(base.top, "reward")
    run = tiny.write_run(tmp_path / "whole", top, {**describe(base, "reward"), "mean": 0.5, "std": 2.0})
    loaded, mean, deviation = load_reward(base, run)
    tiny.assert_same(loaded, top)
    assert (mean, deviation) == (0.5, 2.0)
    unfinished = tiny.write_run(tmp_path / "unfinished", top, describe(base, "reward"))
    with pytest.raises(UserError, match=f"{unfinished} has no normalisation constants; let its training end first"):
        load_reward(base, unfinished)


def test_a_run_without_a_checkpoint_is_refused(model, base, tmp_path):
    message = "holds no complete checkpoint; run the stage that writes it first"
    with pytest.raises(UserError, match=message):
        load_policy(model, str(tmp_path), "float32")
    with pytest.raises(UserError, match=message):
        load_top_on(base, str(tmp_path), "reward")


def test_another_role_is_refused(base, tmp_path):
    run = tiny.write_run(tmp_path, base.top, describe(base, "policy"))
    with pytest.raises(UserError, match=f"{run} holds a policy, expected a reward"):
        load_top_on(base, run, "reward")


def test_a_top_of_another_trunk_is_refused(model, base, tmp_path):
    """Another model of the same shapes, and the same model frozen less."""
    run = tiny.write_run(tmp_path / "run", base.top, describe(base, "policy"))
    other = tiny.write_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=f"{run} was trained on the trunk {base.fingerprint[:12]} .* not this model's"):
        load_policy(other, run, "float32")
    with pytest.raises(UserError, match=r"\(freeze 0.5\), which is not this model's .* \(freeze 0.1\)"):
        load_top_on(load_base(model, 0.1, "float32"), run, "policy")


def test_a_top_of_another_architecture_is_refused_where_there_is_no_trunk(model, tmp_path):
    """Nothing frozen has no fingerprint: three blocks would run as two, other widths would fail inside a program."""
    for changes, message in (
        ({"layers": 3}, "layers/2/.* with the shape .*, this model's is None"),
        ({"mlp_features": 64}, r"mlp/.*64.*, this model's is .*48"),
    ):
        whole = load_base(tiny.write_model(tmp_path / str(changes), **changes), 0.0, "float32")
        run = tiny.write_run(tmp_path / f"run {changes}", whole.top, describe(whole, "policy"))
        with pytest.raises(UserError, match=message):
            load_policy(model, run, "float32")


@pytest.mark.parametrize("freeze", [-0.1, 1.0, 80])
def test_a_fraction_out_of_range_is_refused(model, freeze):
    with pytest.raises(UserError, match=f"config.freeze is {freeze}, expected a fraction"):
        load_base(model, freeze, "float32")
