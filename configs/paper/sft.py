"""SFT of LLaMA-7B on TL;DR with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/paper/sft.py --workdir=runs/paper/sft              # the paper's table
    python -m rlhf_jax.main --config=configs/paper/sft.py:released --workdir=runs/paper/sft     # the released command

Both: learning rate 3e-5, batches of 128, one epoch, 80 % of the blocks frozen, float32, prompts cut on the left. The
released command (2 examples a device and pass, 8 passes, 8 devices) also averages the loss within each microbatch
(docs/method.md, S2). Its DeepSpeed file makes the schedule linear where the code asks for cosine. The paper names none,
so both are linear here. `configs/paper/common.py` has the command for the data. It has not been run at this size.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, sft_tldr
from rlhf_jax.configs.paper.common import ROW, in_float32


def get_config(variant: str = "table") -> ConfigDict:
    """The config: "table" for the paper's settings, "released" for those of the released command."""
    common.check_argument("paper/sft.py", variant, "table", "released")
    config = in_float32(sft_tldr.stage(*ROW))
    if variant == "released":
        config.update({"microbatch": 2, "mean_over": "microbatch"})
    return config
