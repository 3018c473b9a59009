"""Settings that could not do what they are for are refused by name, with the reason."""

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.rl.ppo_config import check
from tests import tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_in": "loss"}, 'kl_estimator is "k1" and kl_in is "loss", expected "k2" or "k3"'),
        ({"kl_target": 6.0, "kl_horizon": 7}, "kl_horizon is 7, expected at least the responses of a rollout, 8"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "kl_coef is 0.0 and kl_target 6.0, expected a .* above 0"),
    ],
)
def test_the_key_is_named_and_what_was_expected(changes, message):
    with pytest.raises(UserError, match=rf"^config\.algorithm\.{message}"):
        check(tiny.algorithm(**changes), responses=8)
