"""Best of 16 from LLaMA-7B's SFT policy on TL;DR with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/paper/best_of_n.py --workdir=runs/paper/bon              # the paper's
    python -m rlhf_jax.main --config=configs/paper/best_of_n.py:released --workdir=runs/paper/bon     # the code's

Both: 16 samples at temperature 0.7 of the first 500 test prompts, the one that the reward model likes best. The
released code also draws from the 50 likeliest tokens alone (docs/method.md, M11). It has not been run at this size.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import bon_tldr, common
from rlhf_jax.configs.paper.common import ROW, in_float32


def get_config(variant: str = "paper") -> ConfigDict:
    """The config: "paper" for the paper's settings, "released" for those of the released code."""
    common.check_argument("paper/best_of_n.py", variant, "paper", "released")
    config = in_float32(bon_tldr.stage(*ROW))
    if variant == "released":
        config.sampling.top_k = 50
    return config
