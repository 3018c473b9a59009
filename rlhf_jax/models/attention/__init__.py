"""Attention. `dispatch` chooses an implementation. `chunked` runs everywhere, `splash` on TPUs, `cudnn` on GPUs."""

from rlhf_jax.models.attention.chunked import KeysValues, cached, merge, shared
from rlhf_jax.models.attention.dispatch import causal, responses

__all__ = ["KeysValues", "cached", "causal", "merge", "responses", "shared"]
