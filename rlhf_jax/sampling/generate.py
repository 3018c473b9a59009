"""Sample responses to a list of prompts: the call `rlhf_jax.generate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax

from rlhf_jax.config import Count, Seed, require
from rlhf_jax.data.texts import require_unicode
from rlhf_jax.data.tokenizer import decode, encode, id_count
from rlhf_jax.errors import UserError
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.sampling import rollouts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def generate(
    model: Model,
    params: Params,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    n: int = 16,
    temperature: float = 0.7,
    max_new_tokens: int = 48,
    seed: int = 0,
) -> list[list[str]]:
    """Samples n responses per prompt. Prompts are not truncated.

    Args:
      model: from `load_pretrained`.
      params: all parameters.
      tokenizer: of the model, with an EOS token.
      prompts: texts.
      n: samples per prompt.
      temperature: 0 is greedy.
      max_new_tokens: longest response, EOS included.
      seed: of the samples. Those of a prompt depend on it and on the prompt alone.

    Returns:
      n responses for each prompt, without special tokens.

    Raises:
      UserError: a prompt is empty or not valid Unicode, a number is outside its domain, or the tokenizer has no EOS
        token or more ids than the embedding has rows.
    """
    n, max_new_tokens = require(Count, n, "n"), require(Count, max_new_tokens, "max_new_tokens")
    for index, prompt in enumerate(prompts):
        if not prompt.strip():
            raise UserError(f"prompts[{index}] is empty, expected a text")
        require_unicode(prompt, f"prompts[{index}]")
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError("the tokenizer names no EOS token, expected one: it ends a response")
    model = dataclasses.replace(model, ids=id_count(tokenizer))
    sample = rollouts.make_sample(model, samples=n, max_new_tokens=max_new_tokens, temperature=temperature, eos_id=eos)
    batches = rollouts.sample_prompts(
        sample,
        {},
        params,
        [encode(tokenizer, prompt) for prompt in prompts],
        [rollouts.prompt_id(prompt) for prompt in prompts],
        batch_size=min(len(prompts), max(1, 64 // n)) or 1,
        pad_id=eos,
        key=jax.random.key(require(Seed, seed, "seed")),
    )
    by_index = {index: responses.tokens for batch in batches for index, responses in batch}
    return [[decode(tokenizer, tokens) for tokens in by_index[i]] for i in range(len(prompts))]
