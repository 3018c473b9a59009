import numpy as np
import pytest

from rlhf_jax.data import formats, shifts
from rlhf_jax.data.records import Example
from rlhf_jax.data.shifts import Shift
from rlhf_jax.errors import UserError

SUBREDDITS = ("tifu", "relationships", "tea", "AskReddit")


def apply(shift: Shift, rows, load_sentiment=None):
    """Every row holds a record."""
    return shifts.apply(shift, rows, {split: max(records) + 1 for split, records in rows.items()}, load_sentiment)


def example(split: str, number: int) -> Example:
    """A post of 244 to 247 words, of one of four subreddits."""
    post = " ".join(["word"] * (244 + number % 5))
    prompt = formats.post_prompt(SUBREDDITS[number % 4], "A title", post)
    return Example(f"tldr/{split}/{number}", split, prompt, "summary")


@pytest.fixture
def rows():
    """20 rows a split, of which row 3 held no record."""
    held = [number for number in range(20) if number != 3]
    return {split: {number: example(split, number) for number in held} for split in ("train", "validation", "test")}


def numbers(records) -> list[int]:
    return [int(record.id.split("/")[2]) for record in records]


INSIDE = {
    "relationships": lambda number: number % 4 == 1,
    "tifu": lambda number: number % 4 == 0,
    "length": lambda number: number % 5 <= 1,
    "sentiment": lambda number: number in (0, 2, 19),
}


@pytest.mark.parametrize("name", INSIDE)
def test_training_is_in_distribution_and_evaluation_on_both_sides(tmp_path, rows, name):
    indices = ""
    if name == "sentiment":
        indices = str(tmp_path / "indices.npy")
        np.save(indices, {split: np.array([19, 0, 2, 3]) for split in rows}, allow_pickle=True)
    found = apply(Shift(name, indices, "default"), rows)
    every = list(rows["test"])
    inside = [number for number in every if INSIDE[name](number)]
    held_out = {prefix + split for prefix in ("", "ood_", "full_") for split in ("validation", "test")}
    assert set(found) == {"train"} | held_out
    for split in rows:
        assert numbers(found[split]) == inside
    for split in ("validation", "test"):
        assert numbers(found[f"ood_{split}"]) == [number for number in every if number not in inside]
        assert numbers(found[f"full_{split}"]) == every
        ids = [record.id for prefix in ("", "ood_", "full_") for record in found[prefix + split]]
        assert len(set(ids)) == len(ids), "a file of all of them has no id twice"


@pytest.mark.parametrize(("name", "percent"), [("random_10", 10), ("random_50", 50)])
def test_a_random_subset_is_drawn_of_training_and_validation(name, percent):
    rows = {split: {n: example(split, n) for n in range(1000)} for split in ("train", "validation", "test")}
    found = apply(Shift(name, "", "default"), rows)
    assert set(found) == {*rows, "full_validation", "full_test"}
    assert found["test"] == list(rows["test"].values())
    assert numbers(found["full_validation"]) == list(rows["validation"])
    for split in ("train", "validation"):
        drawn = numbers(found[split])
        assert len(drawn) == 10 * percent and drawn == sorted(set(drawn))


@pytest.mark.parametrize(("name", "percent", "distinct"), [("random_10", 10, 0.095), ("random_50", 50, 0.393)])
def test_paper_mode_draws_with_replacement(name, percent, distinct):
    rows = {"train": {number: example("train", number) for number in range(5000)}}
    drawn = apply(Shift(name, "", "paper"), rows)["train"]
    expected = np.random.default_rng(percent).integers(0, 5000, 50 * percent)
    assert numbers(drawn) == expected.tolist()
    assert len({record.id for record in drawn}) == len(drawn), "a row drawn again has an id of its own"
    assert len(set(numbers(drawn))) / 5000 == pytest.approx(distinct, abs=0.01)
    del rows["train"][expected[0]], rows["train"][expected[7]]
    left = [number for number in expected.tolist() if number in rows["train"]]
    assert numbers(apply(Shift(name, "", "paper"), rows)["train"]) == left, "a row without a record moves no other"


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (Shift("mood", "", "default"), "The shift 'mood' is unknown, expected one of relationship_advice, "),
        (Shift("sentiment", "", "default"), "The shift sentiment has indices '' and classifier '', expected one of"),
        (Shift("length", "a.npy", "default"), "The shift length has indices 'a.npy'"),
    ],
)
def test_a_shift_that_cannot_be_made_is_refused(rows, shift, message):
    with pytest.raises(UserError, match=message):
        apply(shift, rows)


def test_a_classifier_divides_by_the_text_of_a_post():
    """It is loaded once, sees each text once, and neither title nor subreddit."""
    loaded, seen = [], []

    def load(name: str):
        loaded.append(name)

        def is_positive(texts):
            seen.extend(texts)
            return np.array(["glad" in text for text in texts])

        return is_positive

    posts = ("I am glad.", "I am sad.", "I am sad.", "So glad")
    prompts = [formats.post_prompt("glad", "glad", text) for text in posts]
    rows = {
        split: {n: Example(f"p/{split}/{n}", split, prompt, "s") for n, prompt in enumerate(prompts)}
        for split in ("train", "test")
    }
    found = apply(Shift("sentiment", "", "default", "owner/model"), rows, load)
    assert numbers(found["train"]) == numbers(found["test"]) == [0, 3]
    assert numbers(found["ood_test"]) == [1, 2] and numbers(found["full_test"]) == [0, 1, 2, 3]
    assert loaded == ["owner/model"]
    assert seen == ["I am glad.", "I am sad.", "So glad"] * 2


def test_what_has_no_subreddit_and_indices_of_other_rows_are_refused(tmp_path):
    rows = {"train": {0: Example("a", "train", formats.article_prompt("text"), "s")}}
    with pytest.raises(UserError, match="has no subreddit"):
        apply(Shift("tifu", "", "default"), rows)
    indices = str(tmp_path / "indices.npy")
    np.save(indices, {"train": [0, 7]}, allow_pickle=True)
    with pytest.raises(UserError, match="names row 7 of 'train', expected at most 0"):
        apply(Shift("sentiment", indices, "default"), rows)
    last_holds_no_record = {"train": 8}
    found = shifts.apply(Shift("sentiment", indices, "default"), rows, last_holds_no_record, load_sentiment=None)
    assert [record.id for record in found["train"]] == ["a"]
