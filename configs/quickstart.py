"""The study of this project's title on one laptop: SmolLM2-135M, documentation, a simulated judge.

    python -m rlhf_jax.main --config=configs/quickstart.py --workdir=runs/quickstart         # `make demo`
    python -m rlhf_jax.main --config=configs/quickstart.py:long --workdir=runs/long          # `make long`

Task: the long part of a docstring to its summary line; out of distribution, a package's README to its summary.
Stages: SFT, 4 samples a prompt, pairs labelled by the gold scorer, reward model, PPO, samples of both policies, best of
16, judge, metrics, report. The sizes are chosen for two CPU cores; `long` is the same study where effects show, 3 seeds.
"""

from configs import common
from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

TITLE = "RLHF on documentation: SmolLM2-135M, simulated judge"


def one_seed(seed) -> ConfigDict:
    """The demo's stages with one seed."""
    return common.stages(common.SMOLLM2, common.MINILM, seed)


def get_config(size: str = "") -> ConfigDict:
    """The pipeline's config: "" for the demo, "long" for three seeds of the longer study."""
    if size not in ("", "long"):
        raise ValueError(f"quickstart.py:{size} is unknown; expected quickstart.py or quickstart.py:long")
    return long() if size else demo()


def demo() -> ConfigDict:
    """One seed, minutes."""
    seed = FieldReference(0)
    stages = one_seed(seed)
    return common.ordered(
        stage="pipeline",
        title=TITLE,
        seed=seed,
        stages=common.ordered(
            prepare=common.prepare(seed),
            **{name: stages[name] for name in stages},
            report=common.report(TITLE, ("{workdir}",)),
        ),
    )
