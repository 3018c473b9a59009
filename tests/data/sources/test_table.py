"""Each dataset of the table is read from files of its layout. What they say is made up here."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest

from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.sources import table
from rlhf_jax.data.sources.source import load
from tests.data.sources.layouts import write

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)

POST = {"subreddit": "tifu", "title": "My kettle", "post": "I boiled it dry.\nTwice."}
POST |= {"id": "t3_1", "summary": "Kettles need water."}
POST_PROMPT = "SUBREDDIT: r/tifu\nTITLE: My kettle\nPOST: I boiled it dry.\nTwice.\nTL;DR:"
POST_RECORD = (POST_PROMPT, "Kettles need water.")

ARTICLE = {"id": "9f", "article": "A kettle boiled dry. No one was hurt.", "highlights": "Kettle dry.\nAll well."}
ARTICLE_OF_TFDS = ARTICLE | {"publisher": "cnn"}
# The hub's conversion puts a space before a full stop that it adds to a line.
HIGHLIGHTS_ON_HUB = "Kettle dry .\nAll well."
ARTICLE_ON_HUB = {"id": "9f", "article": "A kettle boiled dry . No one was hurt .", "highlights": HIGHLIGHTS_ON_HUB}
ARTICLE_RECORD = ("ARTICLE: A kettle boiled dry. No one was hurt.\nTL;DR:", "Kettle dry.\nAll well.")


def compared(batch: str, choice: int, **info: str | None) -> dict:
    empty = dict.fromkeys(("id", "post", "title", "subreddit", "site", "article"))
    notes = {"policy": "sup1", "note": None}
    return {
        "info": {**empty, **info},
        "summaries": [{"text": " Full kettles only.", **notes}, {"text": " Kettle.", **notes}],
        "choice": choice,
        "worker": "w1",
        "batch": batch,
        "split": "train",
        "extra": {"confidence": 5},
    }


COMPARED = [
    compared("batch3", 1, post=POST["post"], title=POST["title"], subreddit=POST["subreddit"]),
    compared("cnndm2", 0, site="cnn", article="A kettle boiled dry."),
]
COMPARED_POST = (POST_PROMPT, "Kettle.", "Full kettles only.")
COMPARED_ARTICLE = ("ARTICLE: A kettle boiled dry.\nTL;DR:", "Full kettles only.", "Kettle.")

TASK = {"instruction": "Name a tea.", "input": "", "output": "Assam."}
TASK_RECORD = (f"{ALPACA}\n\n### Instruction:\nName a tea.\n\n### Response:", "Assam.")
TASK_INPUT = {"instruction": "Add up.", "input": "1 and 2", "output": "3"}
TASK_INPUT_RECORD = (f"{ALPACA_INPUT}\n\n### Instruction:\nAdd up.\n\n### Input:\n1 and 2\n\n### Response:", "3")
TEST = {"instruction": "Name a tea.", "output": "Assam.", "generator": "text_davinci_003", "dataset": "made_up"}
RANKED = {"instruction": "Name a tea.", "input": "", "output_1": "Tea.", "output_2": "Assam.", "preference": 2}
RANKED_RECORD = (TASK_RECORD[0], "Assam.", "Tea.")

OPENING = "\n\nHuman: Is tea hot?\n\nAssistant:"
DIALOGUE = {
    "chosen": f"{OPENING} It can be.\n\nHuman: Now?\n\nAssistant: Just made.",
    "rejected": f"{OPENING} It can be.\n\nHuman: Now?\n\nAssistant: Just cold.",
}
DIALOGUE_RECORD = (f"{OPENING} It can be.\n\nHuman: Now?\n\nAssistant:", "Just made.", "Just cold.")
PARTED = {"chosen": f"{OPENING} Yes.\n\nHuman: Thanks.\n\nAssistant: Any time.", "rejected": f"{OPENING} No."}
PARTED_RECORD = (OPENING, "Yes.\n\nHuman: Thanks.\n\nAssistant: Any time.", "No.")


class Case(NamedTuple):
    """A source, its split, the files of a layout with their rows, and the records expected of them."""

    name: str
    split: str
    layout: dict[str, list[dict]]
    expected: list[tuple[str, ...]]


FARM = {"sft": "sft", "preference": "preference", "unlabeled": "unlabeled", "validation": "val"}
FARM_RANKED = {"human": "human", "gpt4": "gpt4", "simulated": "noisy_multi"}
TASKS, TASK_RECORDS = [TASK, TASK_INPUT], [TASK_RECORD, TASK_INPUT_RECORD]
COMPARISONS = "comparisons/validation/0000.parquet"
CASES = {
    "posts": Case("tldr", "validation", {"valid.jsonl": [POST]}, [POST_RECORD]),
    "posts, converted": Case("tldr", "train", {"default/train/0000.parquet": [POST]}, [POST_RECORD]),
    "queries": Case("tldr_queries", "test", {"test.jsonl": [POST]}, [POST_RECORD]),
    "compared posts": Case(
        "tldr_preferences", "validation", {"data/validation-00000-of-00001.json": COMPARED[:1]}, [COMPARED_POST]
    ),
    "compared posts, OpenAI's": Case("tldr_preferences", "validation", {COMPARISONS: COMPARED}, [COMPARED_POST]),
    "articles of the hub": Case(
        "cnn_dailymail", "test", {"3.0.0/test-00000-of-00001.parquet": [ARTICLE_ON_HUB]}, [ARTICLE_RECORD]
    ),
    "articles of TFDS": Case(
        "cnn_dailymail", "test", {"cnn_dailymail-test.array_record-00000-of-00001": [ARTICLE_OF_TFDS]}, [ARTICLE_RECORD]
    ),
    "compared articles": Case("cnn_dailymail_preferences", "validation", {COMPARISONS: COMPARED}, [COMPARED_ARTICLE]),
    "Alpaca": Case(
        "alpaca",
        "train",
        {"data/train-00000-of-00001-a09b74b3ef9c3b56.parquet": [TASK | {"text": "unused"}, TASK_INPUT | {"text": ""}]},
        TASK_RECORDS,
    ),
    "Alpaca's own file": Case("alpaca", "train", {"alpaca_data.json": [TASK_INPUT]}, [TASK_INPUT_RECORD]),
    **{
        f"AlpacaFarm {split}": Case("alpaca_farm", split, {f"alpaca_instructions/{file}.json": TASKS}, TASK_RECORDS)
        for split, file in FARM.items()
    },
    **{
        f"AlpacaFarm, preferences {split}": Case(
            "alpaca_farm_preferences", split, {f"alpaca_{file}_preference.json": [RANKED]}, [RANKED_RECORD]
        )
        for split, file in FARM_RANKED.items()
    },
    "ID test": Case("alpaca_farm_id_test", "test", {"data/train-00000-of-00001-51cd.parquet": [TEST]}, [TASK_RECORD]),
    "AlpacaEval": Case("alpaca_eval", "test", {"alpaca_eval.json": [TEST]}, [TASK_RECORD]),
    "Sequential Instructions": Case(
        "sequential_instructions", "test", {"data/train-00000-of-00001-2044bf55.parquet": [TEST]}, [TASK_RECORD]
    ),
    "hh-rlhf": Case(
        "hh_rlhf",
        "train",
        {"harmless-base/train.jsonl.gz": [DIALOGUE], "helpful-online/train.jsonl.gz": [PARTED]},
        [DIALOGUE_RECORD, PARTED_RECORD],
    ),
    "hh-rlhf, helpful": Case(
        "hh_rlhf",
        "helpful_test",
        {"harmless-base/test.jsonl.gz": [DIALOGUE], "helpful-base/test.jsonl.gz": [PARTED]},
        [PARTED_RECORD],
    ),
}


@pytest.mark.parametrize(("name", "split", "layout", "expected"), CASES.values(), ids=CASES)
def test_a_layout_becomes_records(tmp_path, name, split, layout, expected):
    for file, rows in layout.items():
        write(tmp_path / file, rows)
    source = table.source(name, {}, [split])
    loaded = load(source, name, str(tmp_path), [split])
    assert [texts(record) for record in loaded.rows[split].values()] == expected
    assert loaded.files and {*loaded.files} <= {str(tmp_path / file) for file in layout}
    assert not loaded.lost and not loaded.left_out


def texts(record: Example | Preference) -> tuple[str, ...]:
    """The prompt and the responses."""
    fields = dataclasses.asdict(record)
    return tuple(fields[name] for name in ("prompt", "response", "chosen", "rejected") if name in fields)


def test_every_source_has_a_case_and_a_row_in_the_docs():
    assert {case[0] for case in CASES.values()} == set(table.SOURCES)
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    rows = {cells[0]: cells for line in page.splitlines() if len(cells := line.strip("| ").split(" | ")) == 6}
    for name, source in table.SOURCES.items():
        _, path, _, expected, seen, cases = rows[f"`{name}`"]
        assert f"`{source.path}`" in path and expected and seen
        assert cases.split("; ") == [case for case, (of, *_) in CASES.items() if of == name]
        assert all(f"| `{name}` | `{mirror}`" in page for mirror in source.mirrors)


def test_any_files_by_a_mapping_of_columns(tmp_path):
    write(tmp_path / "deep" / "b.jsonl", [{"title": "Tea", "abstract": "Hot."}])
    write(tmp_path / "deep" / "a.parquet", [{"title": "Milk", "abstract": "Cold."}])
    source = table.source("columns", {"prompt": "TEXT: {abstract}", "response": "{title}"}, ["deep/*"])
    loaded = load(source, "papers", str(tmp_path), ["deep/*"])
    assert [record.id for record in loaded.rows["deep/*"].values()] == ["papers/deep%2F%2A/0", "papers/deep%2F%2A/1"]
    assert [texts(record) for record in loaded.rows["deep/*"].values()] == [
        ("TEXT: Cold.", "Milk"),
        ("TEXT: Hot.", "Tea"),
    ]
