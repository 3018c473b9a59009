"""Tokenizers, and the one place where a prompt and a response are joined into token ids.

Text never becomes a special token here: documentation quotes `</s>` and `<|im_end|>`, and an end of sequence in the
middle of a prompt would change what every stage does with it. Only the tokenizer itself adds special tokens, at the
start, and `encode_pair` adds the EOS.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf_jax import assets
from rlhf_jax.data.formats import TAIL, split_prompt
from rlhf_jax.errors import UserError, readable

if TYPE_CHECKING:
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

# What a too long prompt loses: the end of its text field, or, as in the study, its start (all ids but the BOS).
type Truncation = Literal["text", "left"]


def load_tokenizer(model: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, by the names that `assets.resolve` takes.

    Raises:
      UserError: the model is not there, has no tokenizer, or is a GGUF whose tokenizer is of a kind not known here.
    """
    import transformers

    path = assets.resolve(model, weights=False)
    if path.suffix == ".gguf":
        return _from_gguf(path)
    with readable(f"the tokenizer in {path}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer in {path} names no EOS token, expected one in its tokenizer_config.json.")
    return tokenizer


def id_count(tokenizer: PreTrainedTokenizerFast) -> int:
    """One more than the largest id that the tokenizer knows: an embedding may have rows beyond."""
    return max(tokenizer.get_vocab().values()) + 1


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE with `<s>` (put before every prompt), `</s>` and `<pad>`. The same texts, the same ids.

    Raises:
      UserError: the size has no room for the 256 bytes and 3 special tokens, or the texts are too few to fill it.
    """
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(special) + len(alphabet)
    if vocabulary_size < smallest:
        raise UserError(f"The vocabulary size is {vocabulary_size}, expected at least {smallest}: every byte is in it.")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != vocabulary_size:
        found = bpe.get_vocab_size()
        raise UserError(f"The texts fill a vocabulary of {found} only, expected enough text for {vocabulary_size}.")
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a text, special tokens at the start as the tokenizer adds them, without the EOS that some add."""
    ids = tokenizer(text, split_special_tokens=True).input_ids
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def encode_prompt(
    tokenizer: PreTrainedTokenizerFast, prompt: str, max_length: int, truncation: Truncation = "text"
) -> list[int]:
    """The ids of a prompt, special tokens at the start as the tokenizer adds them, no EOS.

    A prompt of more than `max_length` tokens loses the end of its text field and keeps its header and its tail. Or, by
    the truncation "left", it loses its first tokens and keeps the BOS.

    Raises:
      UserError: by "text", the prompt is too long and has no text field, or the rest of it alone is too long.
    """
    if truncation == "left":
        return _cut_left(tokenizer, encode(tokenizer, prompt), max_length)
    return _shorten(tokenizer, prompt, max_length)[1]


def encode_pair(
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    response: str,
    max_prompt: int,
    truncation: Truncation = "text",
    separator: str = " ",
) -> tuple[list[int], list[int]]:
    """Joins a prompt and a response, and returns the ids of each.

    The prompt is shortened to `max_prompt` tokens as `encode_prompt` does, and its ids are the same as there. The
    response is never shortened. Its ids are those of `prompt + separator + response` after the prompt's, and EOS. An
    empty response is the EOS alone. The separator is white space. The study's released reward models saw two spaces.

    Raises:
      UserError: the prompt's ids are no prefix of the joined text's, or as `encode_prompt`.
    """
    if truncation == "left":
        prompt_ids = encode(tokenizer, prompt)
    else:
        prompt, prompt_ids = _shorten(tokenizer, prompt, max_prompt)
    response = response.strip()
    joined = encode(tokenizer, f"{prompt}{separator}{response}") if response else prompt_ids
    if joined[: len(prompt_ids)] != prompt_ids:
        raise UserError(
            f"The tokenizer merges the end of the prompt {prompt[-20:]!r} with the response {response[:20]!r}, "
            "expected the prompt's tokens to stay the same when a response follows."
        )
    response_ids = [*joined[len(prompt_ids) :], tokenizer.eos_token_id]
    return _cut_left(tokenizer, prompt_ids, max_prompt), response_ids


def decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of a response: up to its first EOS, without special tokens and surrounding whitespace."""
    ids = [int(token) for token in ids]
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


def _cut_left(tokenizer: PreTrainedTokenizerFast, ids: list[int], max_length: int) -> list[int]:
    """The last ids of a prompt, behind its BOS if it has one. A prompt that fits stays as it is."""
    if len(ids) <= max_length:
        return ids
    start = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    return start + ids[len(ids) - max_length + len(start) :]


def _shorten(tokenizer: PreTrainedTokenizerFast, prompt: str, max_length: int) -> tuple[str, list[int]]:
    """A prompt that fits, and its ids: the text field loses its end in characters, so the ids are those of a text."""
    ids = encode(tokenizer, prompt)
    if len(ids) <= max_length:
        return prompt, ids
    header, text = split_prompt(prompt)
    offsets = tokenizer(header + text, split_special_tokens=True, return_offsets_mapping=True).offset_mapping
    # Token counts are not quite additive over a cut, so it moves left by a token until the prompt fits.
    for end in [end for _, end in reversed(offsets[:max_length]) if end >= len(header)]:
        shorter = (header + text)[:end].rstrip() + TAIL
        ids = encode(tokenizer, shorter)
        if len(ids) <= max_length:
            return shorter, ids
    raise UserError(f"The prompt {prompt[:60]!r}... needs more than {max_length} tokens without any of its text.")


@functools.cache
def _from_gguf(path: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE from a GGUF's metadata: tokens, merges, special ids and the name of its pre-tokenizer."""
    import gguf
    import tokenizers
    import transformers
    from tokenizers import decoders, models, processors

    fields = assets.open_gguf(path).fields
    keys = gguf.Keys.Tokenizer

    def value(key: str) -> Any:
        if key not in fields:
            raise UserError(f"{path} has no field {key!r} in its metadata, expected a GGUF with its tokenizer inside.")
        return fields[key].contents()

    if value(keys.MODEL) != "gpt2":
        raise UserError(
            f"{path} has a tokenizer of the kind {value(keys.MODEL)!r}, expected the byte-level BPE 'gpt2'; "
            "use the model's Hugging Face folder instead."
        )
    tokens = value(keys.LIST)
    merges = [tuple(merge.split(" ")) for merge in value(keys.MERGES)]
    bpe = tokenizers.Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = _pre_tokenizer(value(keys.PRE), path)
    bpe.decoder = decoders.ByteLevel()
    kinds = zip(tokens, value(keys.TOKEN_TYPE), strict=True)
    bpe.add_special_tokens([token for token, kind in kinds if kind == gguf.TokenType.CONTROL])
    names = {"bos_token": keys.BOS_ID, "eos_token": keys.EOS_ID, "pad_token": keys.PAD_ID, "unk_token": keys.UNK_ID}
    special = {name: tokens[value(key)] for name, key in names.items() if key in fields}
    if keys.ADD_BOS in fields and value(keys.ADD_BOS):
        bos, special_tokens = special["bos_token"], [(special["bos_token"], value(keys.BOS_ID))]
        bpe.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=special_tokens)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **special)


def _pre_tokenizer(name: str, path: Path) -> pre_tokenizers.PreTokenizer:
    from tokenizers import pre_tokenizers

    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    kinds = {"gpt-2": words, "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])}
    if name not in kinds:
        raise UserError(f"{path} has the pre-tokenizer {name!r}, expected one of {', '.join(kinds)}.")
    return kinds[name]
