"""Does size change it? The study's rows on TL;DR for OPT from 125M to 6.7B (Kirk et al., 2024, App. J).

    export OPENAI_API_KEY=... OPENAI_MODEL=...
    python -m launch.sweep --config=configs/sweeps/opt_scaling.py --workdir=runs/opt_scaling

Five rows of `configs/study.py`, each with a report of its own. `opt_scaling.py:offline` judges by the simulated scorer.
Expected by the study: the same trends at every size. Tables 11 and 12 have the diversity (`configs/evaluate_tldr.py`).
The rates are LLaMA-7B's: those for OPT were not found. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common

SIZES = ("opt125m", "opt350m", "opt1_3b", "opt2_7b", "opt6_7b")


def get_config(how: str = "") -> ConfigDict:
    """The sweep. "offline" for the simulated judge."""
    common.check_argument("sweeps/opt_scaling.py", how, "", "offline")
    rows = tuple(",".join(["tldr", size, *filter(None, [how])]) for size in SIZES)
    return ConfigDict(
        {"config": "configs/study.py", "arguments": rows, "axes": (), "draws": 0, "draw_seed": 0, "seeds": (0,)}
    )
