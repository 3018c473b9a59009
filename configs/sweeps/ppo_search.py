"""A random search for PPO's learning rate, KL coefficient and epochs, from one study's SFT policy and reward model.

    make demo
    python -m launch.sweep --config=configs/sweeps/ppo_search.py --workdir=runs/ppo_search

The argument is the study's folder, as of `configs/ppo.py`. Not yet run to its end.
"""

from ml_collections import ConfigDict


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The sweep, by the study's folder."""
    return ConfigDict(
        {
            "config": f"configs/ppo.py:{study}",
            "arguments": (),
            "axes": (
                {"key": "optimizer.learning_rate", "low": 1e-5, "high": 1e-3, "scale": "log"},
                {"key": "algorithm.kl_coef", "low": 0.01, "high": 0.5, "scale": "log"},
                {"key": "algorithm.num_ppo_epochs", "values": (1, 2, 4)},
            ),
            "draws": 12,
            "draw_seed": 0,
            "seeds": (0,),
        }
    )
