from __future__ import annotations

import pytest

from rlhf_jax.data.formats import TAIL, docstring_prompt, source_text, split_prompt
from rlhf_jax.errors import UserError


@pytest.mark.parametrize("text", ["some text", "", "two\nTEXT: lines\nTL;DR: inside", "  spaces kept "])
def test_the_text_field_comes_back(text):
    prompt = docstring_prompt("numpy", "numpy.sort", text)
    assert prompt == f"PACKAGE: numpy\nNAME: numpy.sort\nTEXT: {text}\nTL;DR:"
    header, field = split_prompt(prompt)
    assert header + field + TAIL == prompt
    assert field == source_text(prompt) == text


@pytest.mark.parametrize("prompt", ["", "TEXT: a\nTL;DR:", "A: b\nTEXT: c", "A: b\nTL;DR:", "A: b\nTEXT: c\nTL;DR: d"])
def test_a_prompt_without_the_field_is_refused(prompt):
    with pytest.raises(UserError, match="has no text field"):
        source_text(prompt)
