"""The study's datasets by name (docs/data.md has their sizes and licences)."""

from collections.abc import Iterable, Mapping

from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.sources import columns, dialogues, instructions, summaries
from rlhf_jax.data.sources.source import Source
from rlhf_jax.errors import UserError

COLUMNS = "columns"  # any dataset; its splits are file patterns


def _splits(*patterns: str, validation: str = "validation") -> dict[str, tuple[str, ...]]:
    """Patterns for the three usual splits, `{}` being the split. Where the hub's own conversion puts them."""
    names = {"train": "train", "validation": validation, "test": "test"}
    converted = "default/{}/*.parquet"
    return {
        split: (*(pattern.format(name) for pattern in patterns), converted.format(split))
        for split, name in names.items()
    }


_POSTS = _splits("{}.jsonl", validation="valid")
_COMPARISONS = _splits("data/{}-*.json", "comparisons/{}/*.parquet")
_ARTICLES = _splits("3.0.0/{}-*.parquet", "cnn_dailymail-{}.array_record-*")
_TEST = {"test": ("data/train-*.parquet", "default/train/*.parquet", "tasks.jsonl")}  # the last, of `generate_tasks`

SOURCES = {
    "tldr": Source(
        Example,
        summaries.post,
        _POSTS,
        "UCL-DARK/openai-tldr-filtered",
        mirrors=("vwxyzjn/summarize_from_feedback_tldr_3_filtered@refs/convert/parquet",),
    ),
    "tldr_queries": Source(Example, summaries.post, _POSTS, "UCL-DARK/openai-tldr-filtered-queries"),
    "tldr_preferences": Source(
        Preference,
        summaries.compared_posts,
        _COMPARISONS,
        "UCL-DARK/openai-tldr-summarisation-preferences",
        mirrors=("openai/summarize_from_feedback@refs/convert/parquet",),
    ),
    "cnn_dailymail": Source(Example, summaries.article, _ARTICLES, "abisee/cnn_dailymail"),
    "cnn_dailymail_preferences": Source(
        Preference, summaries.compared_articles, _COMPARISONS, "openai/summarize_from_feedback@refs/convert/parquet"
    ),
    "alpaca": Source(
        Example, instructions.demonstration, {"train": ("data/train-*.parquet", "alpaca_data.json")}, "tatsu-lab/alpaca"
    ),
    "alpaca_farm": Source(
        Example,
        instructions.demonstration,
        {
            "sft": ("alpaca_instructions/sft.json",),
            "preference": ("alpaca_instructions/preference.json",),
            "unlabeled": ("alpaca_instructions/unlabeled.json",),
            "validation": ("alpaca_instructions/val.json",),
        },
        "tatsu-lab/alpaca_farm",
    ),
    "alpaca_farm_preferences": Source(
        Preference,
        instructions.comparison,
        {
            "human": ("alpaca_human_preference.json",),
            "gpt4": ("alpaca_gpt4_preference.json",),
            "simulated": ("alpaca_noisy_multi_preference.json",),
        },
        "tatsu-lab/alpaca_farm",
    ),
    "alpaca_farm_id_test": Source(Example, instructions.evaluation, _TEST, "UCL-DARK/alpaca-farm-id-test"),
    "alpaca_eval": Source(Example, instructions.evaluation, {"test": ("alpaca_eval.json",)}, "tatsu-lab/alpaca_eval"),
    "sequential_instructions": Source(Example, instructions.evaluation, _TEST, "UCL-DARK/sequential-instructions"),
    "hh_rlhf": Source(
        Preference,
        dialogues.dialogue,
        {
            f"{part}{split}": (f"{folders}/{split}.jsonl.gz",)
            for part, folders in {"": "*", "helpful_": "helpful-*", "harmless_": "harmless-*"}.items()
            for split in ("train", "test")
        },
        "Anthropic/hh-rlhf",
    ),
}


def source(name: str, templates: Mapping[str, str], splits: Iterable[str]) -> Source:
    """A dataset by its key in `SOURCES`, or `columns`.

    For `columns`, `templates` define its records (`columns.reader`), and `splits` are the file patterns that will be
    read. Other datasets have no templates.

    Raises:
      UserError: the name is unknown, or the templates do not go with it.
    """
    if name == COLUMNS:
        return Source(columns.kind_of(templates), columns.reader(templates), {split: (split,) for split in splits})
    if name not in SOURCES:
        raise UserError(f"The source {name!r} is unknown, expected one of {', '.join((*SOURCES, COLUMNS))}.")
    if templates:
        raise UserError(f"columns is for the source {COLUMNS!r}; the source {name!r} has its own.")
    return SOURCES[name]
