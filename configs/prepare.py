"""The data of a study alone: the offline corpus, or datasets from the hub.

    python -m rlhf_jax.main --config=configs/prepare.py --workdir=runs/prepare               # docstrings, READMEs
    python -m rlhf_jax.main --config=configs/prepare.py:tldr --workdir=runs/tldr/prepare
    python -m rlhf_jax.main --config=configs/prepare.py:tldr,length --workdir=runs/shift/prepare

The argument is a name of `STUDIES` or `SHIFTING` and, for the latter, a shift by name: a subreddit, `length`,
`random_10`, `random_50`, or `sentiment` with `--config.sources.tldr.shift.indices=FILE` or `...shift.classifier=MODEL`.
Where a dataset is not to be had from the hub, `--config.sources.NAME.path=FOLDER` reads a copy of its files.
docs/data.md has the datasets.

Datasets are tokenised too, for SmolLM2. For another model it is `--config.tokens.model=MODEL`, with
`--config.tokens.max_prompt` its largest prompt bucket; `--config.bucket=gs://BUCKET/FOLDER` copies all to a bucket.
"""

from ml_collections import ConfigDict

from configs import common

OWN = {"train": "train", "validation": "validation", "id_test": "test"}
REST = {name: name for name in ("ood_validation", "ood_test", "full_validation", "full_test")}


def shifted(source: str, shift: str) -> ConfigDict:
    """TL;DR or its preferences under a shift; a random one has no rest."""
    splits = OWN if shift.startswith("random") else {**OWN, **REST}
    by = ConfigDict({"name": shift, "indices": "", "mode": "default", "classifier": ""})
    return common.part(source, splits, by)


def tldr(shift: str) -> ConfigDict:
    """Posts; out of distribution news, or the rest of the posts."""
    if shift:
        return common.prepare_from("examples", 0, tldr=shifted("tldr", shift))
    news = common.part("cnn_dailymail", {"ood_test": "test"})
    return common.prepare_from("examples", 0, tldr=common.part("tldr", OWN), cnn_dailymail=news)


def tldr_preferences(shift: str) -> ConfigDict:
    """Compared summaries of posts; out of distribution those of news, or the rest of the posts."""
    if shift:
        return common.prepare_from("preferences", 0, tldr=shifted("tldr_preferences", shift))
    return common.prepare_from(
        "preferences",
        0,
        tldr=common.part("tldr_preferences", OWN),
        cnn_dailymail=common.part("cnn_dailymail_preferences", {"ood_test": "validation"}),
    )


def cnn_dailymail() -> ConfigDict:
    """News alone."""
    return common.prepare_from("examples", 0, cnn_dailymail=common.part("cnn_dailymail", OWN))


def alpaca() -> ConfigDict:
    """AlpacaFarm's split for SFT; the study's test in distribution, and its two out of it."""
    return common.prepare_from(
        "examples",
        0,
        alpaca_farm=common.part("alpaca_farm", {"train": "sft", "validation": "validation"}),
        id_test=common.part("alpaca_farm_id_test", {"id_test": "test"}),
        alpaca_eval=common.part("alpaca_eval", {"ood_test": "test"}),
        sequential=common.part("sequential_instructions", {"sequential_test": "test"}),
    )


def alpaca_prompts() -> ConfigDict:
    """AlpacaFarm's instructions for RL, and the same tests."""
    config = alpaca()
    config.sources.alpaca_farm.splits.train = "unlabeled"
    return config


def alpaca_preferences() -> ConfigDict:
    """AlpacaFarm's human preferences, the first 500 held out."""
    human = common.part("alpaca_farm_preferences", {"train": "human[500:]", "validation": "human[:500]"})
    return common.prepare_from("preferences", 0, alpaca_farm=human)


def hh_rlhf() -> ConfigDict:
    """Helpful dialogues in distribution, harmless ones out of it."""
    splits = {
        "train": "helpful_train[1000:]",
        "validation": "helpful_train[:1000]",
        "id_test": "helpful_test",
        "ood_test": "harmless_test",
    }
    return common.prepare_from("preferences", 0, hh_rlhf=common.part("hh_rlhf", splits))


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
        return common.prepare(0)
    config = SHIFTING[name](shift) if name in SHIFTING else STUDIES[name]()
    # What is no summary of a text has no text field in its prompt, which could lose its end.
    config.tokens = tokens("left" if name in INSTRUCTIONS else "text")
    config.bucket = ""
    return config
