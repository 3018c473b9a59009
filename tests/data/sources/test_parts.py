from dataclasses import replace

import pytest

from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.shifts import Shift
from rlhf_jax.data.sources import parts
from rlhf_jax.data.sources.parts import Part
from rlhf_jax.errors import UserError
from tests.data.sources.layouts import write


def post(number: int) -> dict[str, str]:
    subreddit = ("tifu", "tea")[number % 2]
    return {"subreddit": subreddit, "title": "t", "post": f"post {number}", "summary": f"summary {number}"}


@pytest.fixture
def tldr(tmp_path):
    """TL;DR with 6 posts a split, even ones of tifu."""
    for file in ("train", "valid", "test"):
        write(tmp_path / "tldr" / f"{file}.jsonl", [post(number) for number in range(6)])
    splits = {"train": "train", "id_test": "test"}
    return Part("tldr", str(tmp_path / "tldr"), splits, {}, shift=None, drop=())


@pytest.fixture
def news(tmp_path):
    """Two articles of a dataset that the table does not have."""
    articles = [{"text": f"news {number}", "title": f"title {number}"} for number in range(2)]
    write(tmp_path / "news" / "all.jsonl", articles)
    columns = {"prompt": "ARTICLE: {text}\nTL;DR:", "response": "{title}"}
    return Part("columns", str(tmp_path / "news"), {"ood_test": "all.jsonl"}, columns, shift=None, drop=())


def gather(datasets, wanted, kind):
    """No shift here has a classifier."""
    return parts.gather(datasets, wanted, kind, load_sentiment=None)


def responses(records) -> list[str]:
    return [record.response for record in records]


def test_splits_come_from_several_datasets(tldr, news):
    gathered = gather({"posts": tldr, "news": news}, ["train", "id_test", "ood_test"], Example)
    assert list(gathered.splits) == ["train", "id_test", "ood_test"]
    assert responses(gathered.splits["train"]) == [f"summary {number}" for number in range(6)]
    assert gathered.splits["ood_test"] == [
        Example(f"news/all.jsonl/{n}", "ood_test", f"ARTICLE: news {n}\nTL;DR:", f"title {n}") for n in range(2)
    ]
    assert gathered.splits["id_test"][3].id == "posts/test/3"
    assert {record.split for record in gathered.splits["id_test"]} == {"id_test"}
    assert gathered.facts["news"] == {
        "source": "columns",
        "path": news.path,
        "files": [f"{news.path}/all.jsonl"],
        "lost": [],
        "rows_left_out": 0,
        "first_left_out": "",
    }


def test_a_split_may_be_cut(tldr):
    splits = {"validation": "train[:2]", "train": "train[2:4]", "id_test": "test[4:]", "ood_test": "test[:]"}
    found = gather({"posts": replace(tldr, splits=splits)}, ["validation", "train", "id_test"], Example).splits
    for split, numbers in {"validation": (0, 1), "train": (2, 3), "id_test": (4, 5)}.items():
        assert responses(found[split]) == [f"summary {number}" for number in numbers]
    with pytest.raises(UserError, match="The record posts/test/4 is in id_test and ood_test, expected one of them"):
        gather({"posts": replace(tldr, splits=splits)}, ["id_test", "ood_test"], Example)


def test_a_shift_divides_one_dataset_and_not_the_others(tldr, news):
    names = {name: name for name in ("ood_test", "full_test", "ood_validation")}
    shifted = replace(tldr, splits={**tldr.splits, **names}, shift=Shift("tifu", "", "default"))
    wanted = ["train", "id_test", "ood_test", "full_test", "news_test"]
    found = gather({"posts": shifted, "news": replace(news, splits={"news_test": "all.jsonl"})}, wanted, Example).splits
    assert responses(found["train"]) == responses(found["id_test"]) == ["summary 0", "summary 2", "summary 4"]
    assert responses(found["ood_test"]) == ["summary 1", "summary 3", "summary 5"]
    assert len(found["full_test"]) == 6 and responses(found["news_test"]) == ["title 0", "title 1"]


@pytest.mark.parametrize(
    ("changes", "wanted", "kind", "message"),
    [
        ({}, ["train", "ood_test"], Example, "splits has the key 'ood_test', expected some of train, id_test"),
        ({}, ["train"], Preference, "sources.posts holds Example records, expected Preference"),
        ({"splits": {"train": "ood_test"}}, ["train"], Example, "posts has no split 'ood_test', expected one of train"),
        ({"splits": {"train": "train[6:]"}}, ["train"], Example, "The split 'train' has no records, expected some"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tldr, changes, wanted, kind, message):
    with pytest.raises(UserError, match=message):
        gather({"posts": replace(tldr, **changes)}, wanted, kind)
