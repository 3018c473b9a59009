"""The reward model of LLaMA-7B on TL;DR preferences with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/paper/reward.py --workdir=runs/paper/reward            # the paper's table
    python -m rlhf_jax.main --config=configs/paper/reward.py:released --workdir=runs/paper/reward   # the released one

Both: from the SFT run in runs/paper/sft, batches of 64 pairs, one epoch, float32, constants from 500 pairs. The rate is
3e-5 in the table and 1e-5 in the released command, whose data also have two spaces before each summary (docs/method.md,
M3). The paper's accuracy is 75.8 % on TL;DR and 71.6 % on CNN/DailyMail, the split ood_test (configs/paper/common.py
has the command that prepares both). It has not been run at this size.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, reward_tldr
from rlhf_jax.configs.paper.common import ROW, in_float32


def get_config(variant: str = "table") -> ConfigDict:
    """The config: "table" for the paper's settings, "released" for those of the released command."""
    common.check_argument("paper/reward.py", variant, "table", "released")
    config = in_float32(reward_tldr.stage(*ROW))
    if variant == "released":
        config.optimizer.learning_rate = 1e-5
        config.separator = "  "
    return config
