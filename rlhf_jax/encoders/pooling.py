"""Pooling of hidden states to one unit vector per text, as a sentence-transformers folder defines it."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from rlhf_jax.encoders.bert import read_json
from rlhf_jax.errors import UserError

type Pooling = Callable[[jax.Array, jax.Array], jax.Array]
"""`(hidden [B, T, D], mask [B, T]) -> [B, D]`."""


def _sum(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], hidden, 0).sum(axis=1)


def _largest(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], hidden, -jnp.inf).max(axis=1)


POOLING: dict[str, Pooling] = {
    "mean": _sum,  # a sum, since vectors are normalised
    "cls": lambda hidden, mask: hidden[:, 0],
    "max": _largest,
}
"""By name in a pooling config, as sentence-transformers 6 writes it. Before, each had a key of its own:"""
_KEYS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}


def unit_vectors(pool: Pooling, hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Pools the states `[B, T, D]` over the tokens of `mask`, `[B, T]` bool, and normalises: `[B, D]`."""
    pooled = pool(hidden, mask)
    return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


def read_pooling(path: Path) -> Pooling:
    """Reads the pooling of a sentence-transformers folder.

    Raises:
      UserError: modules.json lists modules beside Transformer, Pooling and perhaps Normalize, a file is missing,
        1_Pooling/config.json chooses none or several of `POOLING`, or a prompt stands before every text.
    """
    types = [module["type"].rpartition(".")[2] for module in read_json(path, "modules.json")]
    if types not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{path / 'modules.json'} lists {', '.join(types)}, expected Transformer, Pooling and perhaps Normalize."
        )
    pooling = read_json(path, "1_Pooling/config.json")
    modes = [_KEYS.get(key, key) for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    mode = pooling.get("pooling_mode", sorted(modes))
    chosen = [mode] if isinstance(mode, str) else mode
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise UserError(
            f"{path / '1_Pooling/config.json'} chooses {', '.join(chosen) or 'nothing'}, expected one of "
            f"{', '.join(POOLING)}."
        )
    if (path / "config_sentence_transformers.json").is_file():
        usage = read_json(path, "config_sentence_transformers.json")
        if prompt := (usage.get("prompts") or {}).get(usage.get("default_prompt_name")):
            raise UserError(f"{path} puts the prompt {prompt!r} before every text, which is not supported.")
    return POOLING[chosen[0]]


def longest_text(path: Path) -> int | None:
    """The length in tokens at which a sentence-transformers folder truncates texts, None if it names none.

    sentence-transformers 6 keeps it with the tokenizer, and before in a file of its own.

    Raises:
      UserError: `sentence_bert_config.json` is missing, or chooses something else than the last hidden states of texts.
    """
    file = "sentence_bert_config.json"
    config = read_json(path, file)
    for key, expected in {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}.items():
        if config.get(key, expected) != expected:
            raise UserError(f"{path / file} has {key} {config[key]!r}, expected {expected!r}.")
    longest = config.get("max_seq_length")
    if longest is None and (path / "tokenizer_config.json").is_file():
        longest = read_json(path, "tokenizer_config.json").get("model_max_length")
    return longest if longest is None else int(longest)  # without a limit it is 1e30
