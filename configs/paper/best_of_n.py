"""Best of 16 from LLaMA-7B's SFT policy on TL;DR with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/paper/best_of_n.py --workdir=runs/paper/bon              # the paper's
    python -m rlhf_jax.main --config=configs/paper/best_of_n.py:released --workdir=runs/paper/bon     # the code's

Both: 16 samples at temperature 0.7 of the first 500 test prompts, the one that the reward model likes best. The
released code also draws from the 50 likeliest tokens alone (docs/method.md, M11). It has not been run at this size.
"""

from ml_collections import ConfigDict

from configs import common
from configs.paper.common import BLOCKS, EXAMPLES, LLAMA_7B, MESH


def get_config(variant: str = "paper") -> ConfigDict:
    """The config: "paper" for the paper's settings, "released" for those of the released code."""
    common.check_argument("paper/best_of_n.py", variant, "paper", "released")
    config = common.best_of_n("runs/paper", LLAMA_7B, seed=0)
    config.sampling.update(
        {
            "data": EXAMPLES,
            "max_new_tokens": 48,
            "max_prompt": 1024,
            "truncation": "left",
            "dtype": "float32",
            "mesh": MESH,
            "blocks": BLOCKS,
        }
    )
    config.sampling.prompts = ConfigDict({"id_test": 500, "ood_test": 500})
    if variant == "released":
        config.sampling.top_k = 50
    return config
