"""Metrics of texts, on the host: diversity, win rates, reward-model quality. No module here imports jax."""

from rlhf_jax.metrics.diversity import (
    across_input,
    expectation_adjusted_distinct,
    pairwise_similarity_diversity,
    per_input,
)
from rlhf_jax.metrics.nli import nli_diversity
from rlhf_jax.metrics.winrate import win_rate

__all__ = [
    "across_input",
    "expectation_adjusted_distinct",
    "nli_diversity",
    "pairwise_similarity_diversity",
    "per_input",
    "win_rate",
]
