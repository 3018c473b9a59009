"""Formats of prompts: the study's, and the offline task's, made like them.

A summarisation prompt is a header, one long text field and the tail that asks for the summary. The formats follow the
released code of "Understanding the Effects of RLHF on LLM Generalisation and Diversity" (Kirk et al., 2024), those of
instructions AlpacaFarm (Dubois et al., 2023).
"""

import re

from rlhf_jax.errors import UserError

TAIL = "\nTL;DR:"
# The names of text fields: of any text, of a Reddit post, and of a news article, which has no header.
_FIELD = re.compile(r"(?:\A|\n)(?:TEXT|POST): |\AARTICLE: ")


def docstring_prompt(package: str, name: str, text: str) -> str:
    """The offline task's prompt, in the shape of the study's TL;DR prompts (its Appendix on data)."""
    return f"PACKAGE: {package}\nNAME: {name}\nTEXT: {text}{TAIL}"


def post_prompt(subreddit: str, title: str, post: str) -> str:
    """The study's prompt for the summary of a Reddit post."""
    return f"SUBREDDIT: r/{subreddit}\nTITLE: {title}\nPOST: {post}{TAIL}"


def article_prompt(article: str) -> str:
    """The study's prompt for the summary of a news article."""
    return f"ARTICLE: {article}{TAIL}"


def instruction_prompt(instruction: str, input: str = "") -> str:
    """AlpacaFarm's prompt for an instruction, with the input that it may be about."""
    context = ", paired with an input that provides further context" if input else ""
    field = f"\n\n### Input:\n{input}" if input else ""
    return (
        f"Below is an instruction that describes a task{context}. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}{field}\n\n### Response:"
    )


def split_prompt(prompt: str) -> tuple[str, str]:
    """Cuts a prompt into its header, field name included, and its text field: `header + text + TAIL` is the prompt.

    Raises:
      UserError: the prompt has no text field or does not end in the tail.
    """
    field = _FIELD.search(prompt)
    if field is None or not prompt.endswith(TAIL) or field.end() > len(prompt) - len(TAIL):
        raise UserError(
            f"The prompt {prompt[:60]!r}... has no text field, expected TEXT:, POST: or ARTICLE:, a text and {TAIL!r} "
            "at the end."
        )
    return prompt[: field.end()], prompt[field.end() : -len(TAIL)]


def source_text(prompt: str) -> str:
    """The text that a prompt asks to summarise.

    Raises:
      UserError: the prompt has no text field or does not end in the tail.
    """
    return split_prompt(prompt)[1]


def subreddit(prompt: str) -> str:
    """The subreddit of a post's prompt.

    Raises:
      UserError: the prompt is not one of `post_prompt`.
    """
    found = re.match(r"SUBREDDIT: r/(.*)\nTITLE: ", prompt)
    if found is None:
        raise UserError(f"The prompt {prompt[:60]!r}... has no subreddit, expected one that begins 'SUBREDDIT: r/'.")
    return found.group(1)
