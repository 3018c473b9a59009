"""How a text becomes a prompt: a header, one long text field and the tail that asks for the summary."""

from __future__ import annotations

from rlhf_jax.errors import UserError

TAIL = "\nTL;DR:"
_FIELD = "\nTEXT: "


def docstring_prompt(package: str, name: str, text: str) -> str:
    """The offline task's prompt, in the shape of the study's TL;DR prompts (its Appendix on data)."""
    return f"PACKAGE: {package}\nNAME: {name}{_FIELD}{text}{TAIL}"


def split_prompt(prompt: str) -> tuple[str, str]:
    """Cuts a prompt into its header, field name included, and its text field: `header + text + TAIL` is the prompt.

    Raises:
      UserError: the prompt has no text field or does not end in the tail.
    """
    start = prompt.find(_FIELD)
    if start < 0 or not prompt.endswith(TAIL) or start + len(_FIELD) > len(prompt) - len(TAIL):
        raise UserError(
            f"The prompt {prompt[:60]!r}... has no text field, expected {_FIELD!r}, a text and {TAIL!r} at the end."
        )
    start += len(_FIELD)
    return prompt[:start], prompt[start : -len(TAIL)]


def source_text(prompt: str) -> str:
    """The text that a prompt asks to summarise.

    Raises:
      UserError: the prompt has no text field or does not end in the tail.
    """
    return split_prompt(prompt)[1]
