"""Rows of the study's summarisation sets: posts and articles with their summaries, and summaries that were compared.

A row becomes the texts of an `Example` or a `Preference`, or None where it belongs to another set in the same files.
"""

import re

from rlhf_jax.data import formats
from rlhf_jax.data.sources.rows import Row, ranked, text, value
from rlhf_jax.errors import UserError

# CNN/DailyMail's lines without a full stop were given one: after a space on the hub, and since 3.2.0 without in TFDS.
_ADDED_STOP = re.compile(r" \.(?=\s|$)")


def post(row: Row) -> dict[str, str]:
    """A Reddit post with the summary that its author wrote (Stiennon et al., 2020)."""
    prompt = formats.post_prompt(text(row, "subreddit"), text(row, "title"), text(row, "post"))
    return {"prompt": prompt, "response": text(row, "summary").strip()}


def article(row: Row) -> dict[str, str]:
    """A news article with its highlights, a line each. The same text from the hub and from TFDS."""
    body, highlights = (_ADDED_STOP.sub(".", text(row, column)) for column in ("article", "highlights"))
    return {"prompt": formats.article_prompt(body), "response": highlights.strip()}


def compared_posts(row: Row) -> dict[str, str] | None:
    """Two summaries of a post, of which a person chose one. None for a news article."""
    if _is_news(row):
        return None
    parts = (text(row, f"info.{name}") for name in ("subreddit", "title", "post"))
    return {"prompt": formats.post_prompt(*parts), **_choice(row)}


def compared_articles(row: Row) -> dict[str, str] | None:
    """Two summaries of a news article, of which a person chose one. None for a post."""
    if not _is_news(row):
        return None
    return {"prompt": formats.article_prompt(text(row, "info.article")), **_choice(row)}


def _is_news(row: Row) -> bool:
    return "cnndm" in text(row, "batch")


def _choice(row: Row) -> dict[str, str]:
    summaries = value(row, "summaries")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise UserError(f"has {summaries!r} in the column 'summaries', expected two")
    first, second = (text(summary, "text") for summary in summaries)
    return ranked((first, second), value(row, "choice"), (0, 1))
