"""Reward against KL on a study's samples: best-of-n from its pools, and PPO at each evaluation.

    python -m rlhf_jax.main --config=configs/reward_vs_kl.py:runs/quickstart --workdir=runs/reward_vs_kl

The argument is the folder of a study whose ppo stage and samples are finished. `reward_vs_kl_pool.py`
draws larger pools first.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    samples = common.samples(study)
    return stage({name: samples[name] for name in ("sft", "bon")}, study, 0)


def stage(pools: dict[str, str], folder: str, seed) -> ConfigDict:
    """Reward against KL of best-of-n, by its pools of samples, and of a study's PPO as it goes on."""
    policies = {"ppo": f"{folder}/ppo"}
    return common.ordered(
        stage="reward_vs_kl",
        title="Reward against KL",
        pools=common.ordered(**pools),
        policies=common.ordered(**policies),
        seed=seed,
    )
