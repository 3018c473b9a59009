"""The study's shifts within TL;DR: trained on one kind of post, tested on the others (Kirk et al., 2024, App. J).

    export OPENAI_API_KEY=... OPENAI_MODEL=...
    python -m launch.sweep --config=configs/sweeps/shifts.py --workdir=runs/shifts

Three rows of `configs/study.py`: posts of r/relationships, posts of at most 245 words, and those of one sentiment
(docs/data.md). Each with a report of its own. The argument is a preset of `configs/rows.py`, and `opt6_7b,offline`
judges by the simulated scorer. The study used OPT. Which size was not found.

Expected by the study: these shifts are easy, and PPO's gap between in and out of distribution is SFT's or a little
larger. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import study


def get_config(row: str = "opt6_7b") -> ConfigDict:
    """The sweep, by the preset and perhaps ",offline"."""
    rows = tuple(f"tldr,{row},{shift}" for shift in study.SHIFTS)
    return ConfigDict(
        {"config": "configs/study.py", "arguments": rows, "axes": (), "draws": 0, "draw_seed": 0, "seeds": (0,)}
    )
