from functools import partial

import pytest

from rlhf_jax.data import formats
from rlhf_jax.data.formats import TAIL, docstring_prompt, source_text, split_prompt
from rlhf_jax.errors import UserError

PROMPTS = [
    (partial(docstring_prompt, "numpy", "numpy.sort"), "PACKAGE: numpy\nNAME: numpy.sort\nTEXT: {}\nTL;DR:"),
    (partial(formats.post_prompt, "tea", "A pot"), "SUBREDDIT: r/tea\nTITLE: A pot\nPOST: {}\nTL;DR:"),
    (formats.article_prompt, "ARTICLE: {}\nTL;DR:"),
]


@pytest.mark.parametrize(("make", "expected"), PROMPTS, ids=["docstring", "post", "article"])
@pytest.mark.parametrize(
    "text", ["some text", "", "two\nTEXT: lines\nTL;DR: inside", "  spaces kept ", "a\nPOST: b\nARTICLE: c"]
)
def test_the_text_field_comes_back(make, expected, text):
    prompt = make(text)
    assert prompt == expected.format(text)
    header, field = split_prompt(prompt)
    assert header + field + TAIL == prompt
    assert field == source_text(prompt) == text


@pytest.mark.parametrize(
    "prompt",
    ["", "A: b\nTEXT: c", "A: b\nTL;DR:", "A: b\nTEXT: c\nTL;DR: d", "A: b\nARTICLE: c\nTL;DR:"],
)
def test_a_prompt_without_the_field_is_refused(prompt):
    with pytest.raises(UserError, match="has no text field"):
        source_text(prompt)


def test_the_subreddit_comes_back():
    assert formats.subreddit(formats.post_prompt("tea", "Where\nTITLE: is it", "Here.")) == "tea"
    with pytest.raises(UserError, match="has no subreddit"):
        formats.subreddit(formats.article_prompt("SUBREDDIT: r/tea\nTITLE: a"))


def test_an_instruction_with_and_without_an_input():
    without = formats.instruction_prompt("Name a river.")
    assert without == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a river.\n\n### Response:"
    )
    assert formats.instruction_prompt("Add up.", "1 and 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd up.\n\n### Input:\n1 and 2\n\n### Response:"
    )
