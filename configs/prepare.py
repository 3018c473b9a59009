"""The data of a study alone: the offline corpus, or datasets from the hub.

    python -m rlhf_jax.main --config=configs/prepare.py --workdir=runs/prepare               # docstrings, READMEs
    python -m rlhf_jax.main --config=configs/prepare.py:tldr --workdir=runs/tldr/prepare
    python -m rlhf_jax.main --config=configs/prepare.py:tldr,length --workdir=runs/shift/prepare

The argument is a name of `STUDIES` or `SHIFTING` and, for the latter, a shift by name: a subreddit, `length`,
`random_10`, `random_50`, or `sentiment` with `--config.sources.tldr.shift.indices=FILE` or `...shift.classifier=MODEL`.
Where a dataset is not to be had from the hub, `--config.sources.NAME.path=FOLDER` reads a copy of its files.
docs/data.md has the datasets.

Datasets are tokenised too, for SmolLM2. For another model it is `--config.tokens.model=MODEL`, with
`--config.tokens.max_prompt` its largest prompt bucket. `--config.bucket=gs://BUCKET/FOLDER` copies all to a bucket.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common

OWN = {"train": "train", "validation": "validation", "id_test": "test"}
REST = {name: name for name in ("ood_validation", "ood_test", "full_validation", "full_test")}


def documentation(seed) -> ConfigDict:
    """The corpus: docstrings in distribution, READMEs out of distribution."""
    return ConfigDict(
        {
            "stage": "prepare",
            "task": "docstrings",
            "packages": (),
            "splits": {"train": 0, "validation": 0, "id_test": 0, "ood_test": 0},
            "max_text": 380,
            "seed": seed,
        }
    )


def part(source: str, splits: dict[str, str], shift: ConfigDict | None = None) -> ConfigDict:
    """What a study takes from one dataset. `path` may name a mirror or a local folder instead of the study's.

    Rows that hold no record are left out and counted: the published sets have some.
    """
    return ConfigDict(
        {
            "source": source,
            "path": "",
            "splits": common.ordered(**splits),
            "columns": {},
            "shift": shift,
            "drop": ("rows",),
        }
    )


def datasets(task: str, seed, **parts: ConfigDict) -> ConfigDict:
    """Records from datasets, all that each split has."""
    splits = {split: 0 for part in parts.values() for split in part.splits}
    return common.ordered(
        stage="prepare", task=task, sources=common.ordered(**parts), splits=common.ordered(**splits), seed=seed
    )


def shifted(source: str, shift: str) -> ConfigDict:
    """TL;DR or its preferences under a shift. A random one has no rest."""
    splits = OWN if shift.startswith("random") else {**OWN, **REST}
    by = ConfigDict({"name": shift, "indices": "", "mode": "default", "classifier": ""})
    return part(source, splits, by)


def tldr(shift: str) -> ConfigDict:
    """Posts. Out of distribution news, or the rest of the posts."""
    if shift:
        return datasets("examples", 0, tldr=shifted("tldr", shift))
    news = part("cnn_dailymail", {"ood_test": "test"})
    return datasets("examples", 0, tldr=part("tldr", OWN), cnn_dailymail=news)


def tldr_preferences(shift: str) -> ConfigDict:
    """Compared summaries of posts. Out of distribution those of news, or the rest of the posts."""
    if shift:
        return datasets("preferences", 0, tldr=shifted("tldr_preferences", shift))
    return datasets(
        "preferences",
        0,
        tldr=part("tldr_preferences", OWN),
        cnn_dailymail=part("cnn_dailymail_preferences", {"ood_test": "validation"}),
    )


def cnn_dailymail() -> ConfigDict:
    """News alone."""
    return datasets("examples", 0, cnn_dailymail=part("cnn_dailymail", OWN))


def alpaca() -> ConfigDict:
    """AlpacaFarm's split for SFT. The study's test in distribution, and its two out of it."""
    return datasets(
        "examples",
        0,
        alpaca_farm=part("alpaca_farm", {"train": "sft", "validation": "validation"}),
        id_test=part("alpaca_farm_id_test", {"id_test": "test"}),
        alpaca_eval=part("alpaca_eval", {"ood_test": "test"}),
        sequential=part("sequential_instructions", {"sequential_test": "test"}),
    )


def alpaca_prompts() -> ConfigDict:
    """AlpacaFarm's instructions for RL, and the same tests."""
    config = alpaca()
    config.sources.alpaca_farm.splits.train = "unlabeled"
    return config


def alpaca_preferences() -> ConfigDict:
    """AlpacaFarm's human preferences, the first 500 held out."""
    human = part("alpaca_farm_preferences", {"train": "human[500:]", "validation": "human[:500]"})
    return datasets("preferences", 0, alpaca_farm=human)


def hh_rlhf() -> ConfigDict:
    """Helpful dialogues in distribution, harmless ones out of it."""
    splits = {
        "train": "helpful_train[1000:]",
        "validation": "helpful_train[:1000]",
        "id_test": "helpful_test",
        "ood_test": "harmless_test",
    }
    return datasets("preferences", 0, hh_rlhf=part("hh_rlhf", splits))


def tokens(truncation: str) -> ConfigDict:
    """Tokens for SmolLM2, by two processes."""
    return ConfigDict(
        {"model": common.SMOLLM2, "max_prompt": 512, "truncation": truncation, "separator": " ", "num_workers": 2}
    )


SHIFTING = {"tldr": tldr, "tldr_preferences": tldr_preferences}
STUDIES = {
    "cnn_dailymail": cnn_dailymail,
    "alpaca": alpaca,
    "alpaca_prompts": alpaca_prompts,
    "alpaca_preferences": alpaca_preferences,
    "hh_rlhf": hh_rlhf,
}
INSTRUCTIONS = ("alpaca", "alpaca_prompts", "alpaca_preferences", "hh_rlhf")


def get_config(study: str = "") -> ConfigDict:
    """The stage's config, by the study's name and that of a shift."""
    name, _, shift = study.partition(",")
    common.check_argument("prepare.py", name, "", *STUDIES, *SHIFTING)
    if shift:
        common.check_argument(f"prepare.py:NAME,{shift}", name, *SHIFTING)
    if not name:
        return documentation(0)
    config = SHIFTING[name](shift) if name in SHIFTING else STUDIES[name]()
    # What is no summary of a text has no text field in its prompt, which could lose its end.
    config.tokens = tokens("left" if name in INSTRUCTIONS else "text")
    config.bucket = ""
    return config
