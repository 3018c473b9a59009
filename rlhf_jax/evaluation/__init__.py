"""Diversity, text metrics, judging and win rates, from JSONL on the host CPU.

The names below are loaded when they are first used (PEP 562), so importing this package does not import jax.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "EncodeOnce": "diversity",
    "GoldConfig": "gold",
    "LlmJudge": "llm_judge",
    "LlmJudgeConfig": "llm_judge",
    "Match": "llm_judge",
    "across_input": "diversity",
    "bootstrap_interval": "statistics",
    "bradley_terry": "ranking",
    "distinct_n": "diversity",
    "expectation_adjusted_distinct": "diversity",
    "generalisation_gap": "winrate",
    "human_agreement": "reliability",
    "length_controlled_win_rate": "length_control",
    "load_encoder": "encoders",
    "load_nli_classifier": "nli",
    "make_scorer": "gold",
    "ngram_cosine_diversity": "diversity",
    "nli_diversity": "nli",
    "paired_difference": "winrate",
    "pairwise_similarity_diversity": "diversity",
    "per_input": "diversity",
    "preferences_by_prompt": "winrate",
    "rouge_l": "text",
    "verdict_statistics": "reliability",
    "win_rate": "winrate",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
