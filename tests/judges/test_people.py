"""People as the judge: the page says nothing about who wrote what, and the answers become judgements."""

import dataclasses
import json
import re

import pytest

from rlhf_jax.data.records import Samples, write
from rlhf_jax.errors import UserError
from rlhf_jax.judges.pairs import contests
from rlhf_jax.judges.people import PeopleConfig, comparisons, judge_by_people
from rlhf_jax.stages import annotation_page, judge
from tests import tiny

HOSTILE = "</script><script>alert(1)</script> & \u2028"


def samples(texts: list[list[str]]) -> list[Samples]:
    return [
        tiny.samples(
            f"{split}/{i}", outputs, split=split, prompt=f"TEXT: {i} {HOSTILE}\nTL;DR:", reference=f"reference {i}"
        )
        for split in ("id_test", "ood_test")
        for i, outputs in enumerate(texts)
    ]


MODELS = {
    "sft": samples([["sft 0", "sft 0b"], ["sft 1", "sft 1b"], ["same", "sft 2b"]]),
    "ppo": samples([["ppo 0", "ppo 0b"], ["ppo 1", "ppo 1b"], ["same", "ppo 2b"]]),
}


@pytest.fixture
def config(tmp_path):
    for model, records in MODELS.items():
        write(tmp_path / f"{model}.jsonl", records)
    paths = {model: str(tmp_path / f"{model}.jsonl") for model in MODELS}
    return annotation_page.Config(
        "annotation_page", "Which?", "Choose.", paths, "sft", True, prompts=0, pairs=1, seed=0
    )


@pytest.fixture
def out(config, tmp_path):
    """The folder of the page that asks everything."""
    annotation_page.run(config, tmp_path / "out")
    return tmp_path / "out"


def page_and_key(folder):
    html = (folder / "annotation_page.html").read_text()
    shown = json.loads(re.search(r'id="questions">(.*?)</script>', html, re.DOTALL)[1])
    key = {line["question"]: line for line in map(json.loads, (folder / "key.jsonl").read_text().splitlines())}
    return html, shown, key


def test_the_page_asks_everything_once_and_does_not_say_who_wrote_it(capsys, out):
    html, shown, key = page_and_key(out)
    assert len(key) == 2 * 3 * 3, "two splits, three prompts: sft and ppo against the reference, ppo against sft"
    equal = [line for line in key.values() if line["model_is"] == "both"]
    assert {line["id"] for line in equal} == {"id_test/2", "ood_test/2"}
    assert "16 questions, 2 pairs of equal texts are ties" in capsys.readouterr().out
    assert {asked["question"] for asked in shown} == {name for name in key if key[name]["model_is"] != "both"}
    for asked in shown:
        line = key[asked["question"]]
        own, other = (asked["a"], asked["b"]) if line["model_is"] == "a" else (asked["b"], asked["a"])
        assert own.startswith(line["model"]) or own == "same"
        assert other.startswith(line["against"]) or other == "same"
        assert set(asked) == {"question", "prompt", "a", "b"}
    assert {key[asked["question"]]["model_is"] for asked in shown} == {"a", "b"}
    assert "alert(1)</script>" not in html and "src=" not in html and "http" not in html.replace("http-equiv", "")


def test_the_page_is_a_function_of_the_seed(config, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        annotation_page.run(dataclasses.replace(config, seed=seed), tmp_path / name)
    files = [(tmp_path / name / "annotation_page.html").read_bytes() for name in ("one", "two", "three")]
    assert files[0] == files[1] != files[2]


def test_a_limit_takes_the_first_prompts_of_each_split(config, tmp_path):
    annotation_page.run(dataclasses.replace(config, prompts=1), tmp_path / "out")
    _, _, key = page_and_key(tmp_path / "out")
    assert {line["id"] for line in key.values()} == {"id_test/0", "ood_test/0"}


def answered(folder, name: str, choose, annotator: str = "ab") -> str:
    """A file of answers. `choose(line of the key)` is what the model gets: 1, 0.5, 0 or None for no answer."""
    _, shown, key = page_and_key(folder)
    lines = []
    for asked in shown:
        line = key[asked["question"]]
        share = choose(line)
        if share is not None:
            choice = "tie" if share == 0.5 else line["model_is"] if share else "ab"[line["model_is"] == "a"]
            lines.append({"question": asked["question"], "choice": choice, "annotator": annotator})
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder / name)


def test_answers_become_judgements_wherever_the_model_stood(config, out, tmp_path, capsys):
    """One reader prefers ppo to all, another calls everything a tie. Equal texts were not asked about and are one."""
    first = answered(out, "first.jsonl", lambda line: float(line["model"] == "ppo"))
    second = answered(out, "second.jsonl", lambda line: 0.5, annotator="cd")
    settings = judge.Config(
        "judge", config.samples, "sft", people=PeopleConfig(str(out / "key.jsonl"), (first, second))
    )
    judge.run(settings, tmp_path / "judged")
    lines = [json.loads(line) for line in (tmp_path / "judged" / "judgements.jsonl").read_text().splitlines()]
    assert len(lines) == 18 and {line["judge"] for line in lines} == {"people (2)"}
    for line in lines:
        share = 0.75 if line["model"] == "ppo" else 0.25
        share = 0.5 if line["against"] == "sft" and line["id"].endswith("2") else share
        assert (line["preference"], line["score"], line["against_score"]) == (1 + share, share, 1 - share)
    assert "ppo against reference, id_test: win rate 75.0" in capsys.readouterr().out


def test_what_nobody_answered_has_no_line(out):
    only = answered(out, "only.jsonl", lambda line: 1.0 if line["against"] == "sft" else None)
    compared = list(contests(MODELS, "sft", against_reference=True))
    lines = judge_by_people(compared, PeopleConfig(str(out / "key.jsonl"), (only,)))
    assert {line["against"] for line in lines} == {"sft"} and len(lines) == 6


def test_pairs_of_a_prompt_are_averaged(tmp_path, config):
    out = tmp_path / "out"
    annotation_page.run(dataclasses.replace(config, pairs=2, against_reference=False, prompts=1), out)
    key = [json.loads(line) for line in (out / "key.jsonl").read_text().splitlines()]
    assert len(key) == 4
    seen = []

    def choose(line):
        seen.append(line["id"])
        return float(seen.count(line["id"]) == 1)

    compared = list(contests(MODELS, "sft", against_reference=False))
    lines = judge_by_people(compared, PeopleConfig(str(out / "key.jsonl"), (answered(out, "x.jsonl", choose),)))
    assert [line["preference"] for line in lines] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "x", "choice": "a", "annotator": "ab"}\n', "answers the question 'x', which .* does not have"),
        ("KNOWN b2", r"answers.jsonl:1: the field 'choice' is \"b2\", expected 'a', 'tie' or 'b'"),
        ("KNOWN a\nKNOWN b", "'ab' answers .* twice, expected one answer"),
        ("not json", "answers.jsonl:1 does not parse as JSON"),
        ('{"question": "x"}', "answers.jsonl:1: has no field 'choice', expected question, choice, annotator"),
        ('{"question": 1, "choice": "a", "annotator": "ab"}', "the field 'question' is 1, expected a valid string"),
    ],
)
def test_broken_answers_are_named(out, text, message):
    known = page_and_key(out)[1][0]["question"]
    for choice in re.findall(r"KNOWN (\w+)", text):
        line = {"question": known, "choice": choice, "annotator": "ab"}
        text = text.replace(f"KNOWN {choice}", json.dumps(line), 1)
    (out / "answers.jsonl").write_text(text)
    compared = list(contests(MODELS, "sft", against_reference=True))
    with pytest.raises(UserError, match=message):
        judge_by_people(compared, PeopleConfig(str(out / "key.jsonl"), (str(out / "answers.jsonl"),)))


def test_a_key_of_other_samples_and_files_that_are_not_there_are_refused(out, tmp_path):
    answers = (answered(out, "all.jsonl", lambda line: 1.0),)
    few = list(contests({name: records[:1] for name, records in MODELS.items()}, "sft", against_reference=True))
    with pytest.raises(UserError, match="which the samples do not have"):
        judge_by_people(few, PeopleConfig(str(out / "key.jsonl"), answers))
    with pytest.raises(UserError, match="nowhere.jsonl does not exist"):
        judge_by_people(few, PeopleConfig(str(tmp_path / "nowhere.jsonl"), answers))


def test_another_page_has_other_names():
    compared = list(contests(MODELS, "sft", against_reference=True))
    names = [{question.question for question in comparisons(compared, 1, seed)} for seed in (0, 1)]
    assert len(names[0]) == len(compared) and names[0] != names[1]


def test_nothing_to_compare_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="There is nothing to compare"):
        alone = {"sft": config.samples["sft"]}
        annotation_page.run(dataclasses.replace(config, samples=alone, against_reference=False), tmp_path / "out")
