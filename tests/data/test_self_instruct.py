import random
import re
from typing import get_args

import pytest

from rlhf_jax.data.self_instruct import Collection, Kind, Task, request, seed_tasks

KINDS = get_args(Kind)
ID, SEQUENTIAL = KINDS


def block(instruction: str, output: str = "An answer.", number: int = 4) -> str:
    return f"{number}. Instruction: {instruction}\n{number}. Output:\n{output}\n"


COUNT = block("Count up to the number six.", "1", 5)


def left_out(instruction: str, kind: Kind = SEQUENTIAL) -> dict[str, int]:
    collection = Collection(kind, [Task("Name the days of the week in order.", "", "Monday ...")])
    given = "4. Input:\n<noinput>\n" if kind == ID else ""
    collection.add(f"4. Instruction: {instruction}\n{given}4. Output:\nAn answer.", cut=False)
    assert len(collection.kept) + collection.left_out.total() == 1
    return dict(collection.left_out)


@pytest.mark.parametrize("kind", KINDS)
def test_our_seed_tasks_are_good_tasks_in_the_form_that_is_read(kind):
    """A request that shows them all, read as an answer: every one passes the filters, beside all the others."""
    seeds = seed_tasks(kind)
    assert len(seeds) == 20 and any(task.input for task in seeds) == (kind == ID)
    collection = Collection(kind, seeds=[])
    collection.add(request(kind, seeds).partition("###\n")[2], cut=False)
    assert collection.kept == seeds
    assert collection.left_out == {"form": 1}, "the number that the model goes on with"
    assert all(len(task.output.split()) < 100 for task in seeds)


def longest_common(a: list[str], b: list[str]) -> int:
    """Of two sequences the longest common subsequence, by recursion over prefixes."""
    lengths = {(i, j): 0 for i in range(len(a) + 1) for j in range(len(b) + 1)}
    for i, x in enumerate(a, start=1):
        for j, y in enumerate(b, start=1):
            lengths[i, j] = lengths[i - 1, j - 1] + 1 if x == y else max(lengths[i - 1, j], lengths[i, j - 1])
    return lengths[len(a), len(b)]


def rouge_l(first: str, second: str) -> float:
    """2 LCS / (m + n), which is the F-measure of LCS / m and LCS / n."""
    a, b = (re.findall(r"[a-z0-9]+", text.lower()) for text in (first, second))
    return 2 * longest_common(a, b) / (len(a) + len(b))


def test_what_is_too_like_an_earlier_task_is_left_out():
    """By brute force over all that were kept before and the seeds. Few words, so that many are near the limit."""
    dice = random.Random(1)
    words = ["Take", "six", "words", "Boil", "eggs", "then", "write", "them", "backwards", "again"]
    made = [" ".join(["Please", *dice.choices(words, k=dice.randrange(5, 9))]) for _ in range(150)]
    seeds = [Task(text, "", "yes") for text in made[:3]]
    collection = Collection(SEQUENTIAL, seeds)
    collection.add("###\n".join(block(text, number=n) for n, text in enumerate(made[3:], start=4)), cut=False)
    expected = made[:3]
    for text in made[3:]:
        if all(rouge_l(text, old) <= 0.7 for old in expected):
            expected.append(text)
    assert [task.instruction for task in collection.kept] == expected[3:]
    assert collection.left_out == {"similar": 147 - len(collection.kept)}
    assert 20 < len(collection.kept) < 120


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Name three teas.", "short"),
        ("Say how one would go to the moon.", "not text"),
        ("Write a program that sorts its own lines.", "program"),
        ('"Assam" is a tea: name two others.', "first letter"),
        ("Summarise https://example.org in a sentence, then halve it.", "link"),
        ("Name all the days of the week in order.", "similar"),
    ],
)
def test_the_study_s_filters(instruction, reason):
    assert left_out(instruction) == {reason: 1}


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("4. Instruction: Name four good teas.\n4. Output:\nAssam.", ["Assam."]),
        (f" Name four good teas.\n4. Output:\nAssam.\n###\n{COUNT}", ["Assam.", "1"]),
        (block("Name four good teas.") + COUNT, []),
        ("4. Instruction: Name four good teas.\n4. Input:\nnone\n4. Output:\nAssam.", []),
        ("4. Instruction: Name four good teas.\n4. Output:\n", []),
        ("", None),
    ],
)
def test_the_forms_of_an_answer(answer, kept):
    collection = Collection(SEQUENTIAL, [])
    collection.add(answer, cut=False)
    assert [task.output for task in collection.kept] == (kept or [])
    assert collection.left_out == ({"form": 1} if kept == [] else {})
