"""The study's datasets in miniature: files of their layouts with what is written about Python instead."""

import argparse
import asyncio
import email.message
import inspect
import itertools
import json
import logging
import pathlib
from collections.abc import Iterator
from pathlib import Path

from tests.data.sources.layouts import Row, write

MODULES = (argparse, asyncio, email.message, json, logging, pathlib, itertools, inspect)


def texts() -> Iterator[tuple[str, str]]:
    """Docstrings and their first lines, without end."""
    found = {inspect.getdoc(value) or "" for module in MODULES for value in vars(module).values()}
    long = sorted(text for text in found if len(text) > 150)
    return itertools.cycle((text[:500], text.partition("\n")[0][:80]) for text in long)


def posts(count: int) -> list[Row]:
    """Every second one of the subreddit that a shift is about, every third longer than another shift's limit."""
    made = itertools.islice(texts(), count)
    names = ("relationships", "tifu")
    return [
        {
            "id": f"t3_{i}",
            "subreddit": names[i % 2],
            "title": f"Number {i}",
            "post": text + " and so on" * (100 if i % 3 == 0 else 0),
            "summary": summary,
        }
        for i, (text, summary) in enumerate(made)
    ]


def compared(count: int, kind: str) -> list[Row]:
    """Comparisons of two summaries, of posts or of articles (of CNN/DailyMail)."""
    rows = []
    for i, post in enumerate(posts(count)):
        info = dict.fromkeys(("id", "post", "title", "subreddit", "site", "article"))
        info |= {"article": post["post"]} if kind == "article" else {k: post[k] for k in ("post", "title", "subreddit")}
        summaries = [{"text": f" {post['summary']}", "policy": "a"}, {"text": f" Number {i} it is.", "policy": "b"}]
        batch = "cnndm2" if kind == "article" else "batch3"
        rows.append({"info": info, "summaries": summaries, "choice": i % 2, "worker": "w", "batch": batch})
    return rows


def write_tldr(folder: Path) -> list[str]:
    """Writes what `study.py:tldr` reads. Returns the flags that say where it is."""
    for name, count in (("train", 80), ("valid", 20), ("test", 20)):
        write(folder / "tldr" / f"{name}.jsonl", posts(count))
    for name, count in (("train", 80), ("validation", 20), ("test", 20)):
        write(folder / "tldr_preferences" / "data" / f"{name}-00000-of-00001.json", compared(count, "post"))
    articles = [{"id": p["id"], "article": p["post"], "highlights": p["summary"]} for p in posts(20)]
    write(folder / "cnn_dailymail" / "3.0.0" / "test-00000-of-00001.parquet", articles)
    pairs = folder / "cnn_dailymail_preferences" / "comparisons" / "validation" / "0000.parquet"
    write(pairs, compared(20, "article"))
    return [
        f"--config.stages.prepare.sources.tldr.path={folder / 'tldr'}",
        f"--config.stages.prepare.sources.cnn_dailymail.path={folder / 'cnn_dailymail'}",
        f"--config.stages.prepare_preferences.sources.tldr.path={folder / 'tldr_preferences'}",
        f"--config.stages.prepare_preferences.sources.cnn_dailymail.path={folder / 'cnn_dailymail_preferences'}",
    ]
