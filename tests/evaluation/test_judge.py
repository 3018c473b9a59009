import dataclasses
import json

import numpy as np
import pytest

from rlhf_jax.data.formats import docstring_prompt
from rlhf_jax.data.records import Samples, write
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation import judge
from rlhf_jax.evaluation.gold import GoldConfig, make_scorer

GOLD = GoldConfig("lexical")
TEXT = "Rotates the picture by some angle, filling corners with zeros."
GOOD, FAIR, BAD = "picture angle corners", "picture only", "nothing common"


def sample(id: str, outputs: list[str], reference: str = FAIR, split: str = "id_test", selected=None) -> Samples:
    prompt = docstring_prompt("scipy", id, TEXT)
    n = len(outputs)
    return Samples(id, split, prompt, reference, outputs, None, ["eos"] * n, selected, "m", "", 1.0, n, 0)


def judged(tmp_path, models: dict[str, list[Samples]], baseline: str = "sft") -> list[dict]:
    paths = {model: str(tmp_path / f"{model}.jsonl") for model in models}
    for model, records in models.items():
        write(paths[model], records)
    workdir = tmp_path / "judge"
    judge.run(judge.Config("judge", paths, baseline, GOLD), workdir)
    return [json.loads(line) for line in (workdir / "judgements.jsonl").read_text().splitlines()]


def test_every_prompt_model_and_opponent_has_its_line(tmp_path):
    models = {
        "sft": [sample("a", [BAD, GOOD]), sample("b", [FAIR, BAD], split="ood_test")],
        "ppo": [sample("b", [GOOD, GOOD], split="ood_test"), sample("a", [GOOD, FAIR])],
    }
    lines = judged(tmp_path, models)
    found = {(line["id"], line["split"], line["model"], line["against"]): line["preference"] for line in lines}
    assert found == {
        ("a", "id_test", "sft", "reference"): 1.5,  # loses, wins
        ("b", "ood_test", "sft", "reference"): 1.25,  # ties, loses
        ("a", "id_test", "ppo", "reference"): 1.75,  # wins, ties
        ("b", "ood_test", "ppo", "reference"): 2.0,
        ("a", "id_test", "ppo", "sft"): 1 + (1 + 0.5 + 1 + 0) / 4,
        ("b", "ood_test", "ppo", "sft"): 2.0,
    }
    assert len(lines) == 6
    scorer = make_scorer(GOLD)
    line = next(line for line in lines if (line["id"], line["against"]) == ("a", "sft"))
    assert line["score"] == pytest.approx(np.mean(scorer([TEXT] * 2, [GOOD, FAIR])))
    assert line["against_score"] == pytest.approx(np.mean(scorer([TEXT] * 2, [BAD, GOOD])))
    assert line["judge"] == "gold (lexical)"


def test_best_of_n_is_judged_by_its_selected_output(tmp_path):
    lines = judged(tmp_path, {"sft": [sample("a", [FAIR, BAD])], "bon": [sample("a", [BAD, GOOD, BAD], selected=1)]})
    assert {(line["model"], line["against"]): line["preference"] for line in lines} == {
        ("sft", "reference"): 1.25,
        ("bon", "reference"): 2.0,
        ("bon", "sft"): 2.0,
    }


def test_each_pair_of_text_and_output_is_scored_once(tmp_path, monkeypatch):
    calls = []

    def make(config):
        return lambda texts, outputs: calls.append(list(outputs)) or make_scorer(config)(texts, outputs)

    monkeypatch.setattr(judge, "make_scorer", make)
    judged(tmp_path, {"sft": [sample("a", [BAD, BAD, FAIR])], "ppo": [sample("a", [BAD, GOOD])]})
    assert calls == [[FAIR, BAD, GOOD]]


def test_the_order_of_models_does_not_matter(tmp_path):
    models = {"sft": [sample("a", [BAD, GOOD])], "ppo": [sample("a", [GOOD, FAIR])]}
    there = judged(tmp_path / "1", models)
    back = judged(tmp_path / "2", dict(reversed(models.items())))
    key = lambda line: (line["model"], line["against"])  # noqa: E731
    assert sorted(there, key=key) == sorted(back, key=key)


def test_a_finished_judge_is_left_alone(tmp_path, capsys):
    models = {"sft": [sample("a", [BAD])]}
    judged(tmp_path, models)
    assert "sft against reference, id_test: win rate 0.0 % of 1" in capsys.readouterr().out
    before = (tmp_path / "judge/judgements.jsonl").stat()
    judged(tmp_path, models)
    assert "complete" in capsys.readouterr().out
    assert (tmp_path / "judge/judgements.jsonl").stat() == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ([sample("b", [GOOD])], "only in one of"),
        ([sample("a", [GOOD]), sample("b", [GOOD])], '"b" and 0 other'),
        ([sample("a", [GOOD], split="ood_test")], "another split"),
        ([sample("a", [GOOD], reference=GOOD)], "another reference"),
        ([dataclasses.replace(sample("a", [GOOD]), prompt=docstring_prompt("p", "n", "other"))], "another prompt"),
    ],
)
def test_models_on_other_prompts_are_refused(tmp_path, other, message):
    with pytest.raises(UserError, match=message):
        judged(tmp_path, {"sft": [sample("a", [BAD])], "ppo": other})
    assert not (tmp_path / "judge").exists()


def test_an_unknown_baseline_a_model_named_reference_and_no_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match='baseline is "gpt", expected one of sft'):
        judged(tmp_path, {"sft": [sample("a", [BAD])]}, "gpt")
    with pytest.raises(UserError, match='named "reference"'):
        judged(tmp_path, {"sft": [sample("a", [BAD])], "reference": [sample("a", [BAD])]})
    with pytest.raises(UserError, match="holds no samples"):
        judged(tmp_path, {"sft": []})
