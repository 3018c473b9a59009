"""How far PPO goes by its KL coefficient: four coefficients, three seeds, from one study's SFT policy and reward model.

    make demo
    python -m launch.sweep --config=configs/sweeps/kl.py --workdir=runs/kl

The argument is the study's folder, as of `configs/ppo.py`. Not yet run to its end.
"""

from ml_collections import ConfigDict


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The sweep, by the study's folder."""
    return ConfigDict(
        {
            "config": f"configs/ppo.py:{study}",
            "arguments": (),
            "axes": ({"key": "algorithm.kl_coef", "values": (0.02, 0.05, 0.1, 0.2)},),
            "draws": 0,
            "draw_seed": 0,
            "seeds": (0, 1, 2),
        }
    )
