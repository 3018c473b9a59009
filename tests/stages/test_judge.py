import dataclasses
import json

import numpy as np
import pytest

from rlhf_jax.config import to_dict
from rlhf_jax.data.formats import docstring_prompt
from rlhf_jax.data.records import Samples, write
from rlhf_jax.errors import UserError
from rlhf_jax.judges.gold import GoldConfig, make_scorer
from rlhf_jax.report.alpaca_eval import read_annotations
from rlhf_jax.stages import judge
from rlhf_jax.stages.runner import run_stage
from tests import tiny
from tests.chat_server import judge_config, prefers_first, prefers_longer, serving

GOLD = GoldConfig("lexical")
TEXT = "Rotates the picture by some angle, filling corners with zeros."
GOOD, FAIR, BAD = "picture angle corners", "picture only", "nothing common"


def sample(id: str, outputs: list[str], reference: str = FAIR, split: str = "id_test", selected=None) -> Samples:
    prompt = docstring_prompt("scipy", id, TEXT)
    return tiny.samples(id, outputs, split=split, prompt=prompt, reference=reference, selected=selected)


def written(folder, models: dict[str, list[Samples]]) -> dict[str, str]:
    """A file of each model's samples."""
    paths = {model: str(folder / f"{model}.jsonl") for model in models}
    for model, records in models.items():
        write(paths[model], records)
    return paths


def judged(tmp_path, models: dict[str, list[Samples]], baseline: str = "sft", **changes) -> list[dict]:
    paths = written(tmp_path, models)
    judge.run(judge.Config("judge", paths, baseline, **(changes or {"gold": GOLD})), tmp_path / "judge")
    return tiny.logged(tmp_path / "judge", "judgements")


def preferences(lines: list[dict]) -> dict[tuple[str, str, str], float]:
    return {(line["id"], line["model"], line["against"]): line["preference"] for line in lines}


def test_every_prompt_model_and_opponent_has_its_line(tmp_path):
    models = {
        "sft": [sample("a", [BAD, GOOD]), sample("b", [FAIR, BAD], split="ood_test")],
        "ppo": [sample("b", [GOOD, GOOD], split="ood_test"), sample("a", [GOOD, FAIR])],
    }
    lines = judged(tmp_path, models)
    assert preferences(lines) == {
        ("a", "sft", "reference"): 1.5,  # loses, wins
        ("b", "sft", "reference"): 1.25,  # ties, loses
        ("a", "ppo", "reference"): 1.75,  # wins, ties
        ("b", "ppo", "reference"): 2.0,
        ("a", "ppo", "sft"): 1 + (1 + 0.5 + 1 + 0) / 4,
        ("b", "ppo", "sft"): 2.0,
    }
    assert sorted((line["id"], line["split"]) for line in lines) == [("a", "id_test")] * 3 + [("b", "ood_test")] * 3
    scorer = make_scorer(GOLD)
    line = next(line for line in lines if (line["id"], line["against"]) == ("a", "sft"))
    assert line["score"] == pytest.approx(np.mean(scorer([TEXT] * 2, [GOOD, FAIR])))
    assert line["against_score"] == pytest.approx(np.mean(scorer([TEXT] * 2, [BAD, GOOD])))
    assert line["judge"] == "gold (lexical)"


def test_best_of_n_is_judged_by_its_selected_output(tmp_path):
    lines = judged(tmp_path, {"sft": [sample("a", [FAIR, BAD])], "bon": [sample("a", [BAD, GOOD, BAD], selected=1)]})
    expected = {("a", "sft", "reference"): 1.25, ("a", "bon", "reference"): 2.0, ("a", "bon", "sft"): 2.0}
    assert preferences(lines) == expected


def test_each_pair_of_text_and_output_is_scored_once(tmp_path, monkeypatch):
    calls = []

    def make(config):
        return lambda texts, outputs: calls.append(list(outputs)) or make_scorer(config)(texts, outputs)

    monkeypatch.setattr(judge, "make_scorer", make)
    judged(tmp_path, {"sft": [sample("a", [BAD, BAD, FAIR])], "ppo": [sample("a", [BAD, GOOD])]})
    assert calls == [[FAIR, BAD, GOOD]]


def test_single_outputs_are_annotations_for_alpaca_eval_too(tmp_path):
    lines = judged(tmp_path, {"sft": [sample("a", [BAD])], "bon": [sample("a", [BAD, GOOD], selected=1)]})
    found = read_annotations(tmp_path / "judge" / "annotations.json")
    assert [(a.generator, a.output, a.reference_generator, a.reference_output) for a in found] == [
        ("sft", BAD, "reference", FAIR),
        ("bon", GOOD, "reference", FAIR),
        ("bon", GOOD, "sft", BAD),
    ]
    assert [a.preference for a in found] == [line["preference"] for line in lines]
    assert {(a.prompt, a.annotator) for a in found} == {(docstring_prompt("scipy", "a", TEXT), "gold (lexical)")}
    judged(tmp_path / "several", {"sft": [sample("a", [BAD, BAD])]})
    assert not (tmp_path / "several" / "judge" / "annotations.json").exists()


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


def test_an_unknown_baseline_a_model_named_reference_and_nothing_to_compare_are_refused(tmp_path):
    with pytest.raises(UserError, match='baseline is "gpt", expected one of sft'):
        judged(tmp_path, {"sft": [sample("a", [BAD])]}, "gpt")
    with pytest.raises(UserError, match='named "reference"'):
        judged(tmp_path, {"sft": [sample("a", [BAD])], "reference": [sample("a", [BAD])]})
    with pytest.raises(UserError, match="has no samples"):
        judged(tmp_path, {"sft": []})
    with pytest.raises(UserError, match="nothing to compare"):
        judged(tmp_path, {"sft": [sample("a", [BAD])]}, gold=GOLD, against_reference=False)


def by_llm(tmp_path, answer, models, **changes) -> tuple[list[dict], int]:
    pairs = changes.pop("pairs", 1)
    with serving(answer) as server:
        lines = judged(tmp_path, models, llm=judge_config(server, **changes), pairs=pairs)
    return lines, len(server.requests)


MODELS = {
    "sft": [sample("a", ["xx", "xxxx"], "xxx"), sample("b", ["xx", "xx"], "xx", split="ood_test")],
    "bon": [sample("a", ["x", "xxxxx"], "xxx", selected=1), sample("b", ["", "x"], "xx", "ood_test", selected=0)],
}


@pytest.mark.parametrize("order", ["both", "single"])
def test_a_language_model_judges_as_many_pairs_as_asked(tmp_path, order):
    lines, _ = by_llm(tmp_path, prefers_longer, MODELS, order=order, pairs=2)
    assert preferences(lines) == {
        ("a", "sft", "reference"): 1.5,  # shorter, longer
        ("b", "sft", "reference"): 1.5,  # the same text, twice
        ("a", "bon", "reference"): 2.0,
        ("a", "bon", "sft"): 2.0,  # the selected output against both
        ("b", "bon", "reference"): 1.0,
        ("b", "bon", "sft"): 1.0,
    }
    line, same = (line for line in lines if line["model"] == "sft")
    asked = 4 if order == "both" else 2
    assert (line["score"], line["against_score"], line["answers"], line["unparsable"]) == (0.5, 0.5, asked, 0)
    assert (line["id"], same["id"], same["answers"]) == ("a", "b", 0)


def test_one_pair_is_the_first_of_each(tmp_path):
    lines, requests = by_llm(tmp_path, prefers_longer, MODELS)
    assert preferences(lines) == {
        ("a", "sft", "reference"): 1.0,
        ("b", "sft", "reference"): 1.5,
        ("a", "bon", "reference"): 2.0,
        ("a", "bon", "sft"): 2.0,
        ("b", "bon", "reference"): 1.0,
        ("b", "bon", "sft"): 1.0,
    }
    assert requests == 2 * 4, "of the six, one has equal texts, and two have the same"


def test_no_answer_is_dropped_and_what_could_not_be_read_is_counted(tmp_path, capsys):
    with pytest.raises(
        UserError, match="8 of 8 answers of judge-1 could not be read, .* the first is 'Beide sind gut.'"
    ):
        by_llm(tmp_path, lambda messages: "Beide sind gut.", MODELS)
    assert [path.name for path in (tmp_path / "judge").iterdir()] == ["answers.sqlite"]
    (tmp_path / "judge" / "answers.sqlite").unlink()
    lines, requests = by_llm(tmp_path, lambda messages: "Beide sind gut.", MODELS, max_unparsable=1.0)
    assert {line["preference"] for line in lines} == {1.5}
    assert sum(line["answers"] for line in lines) == sum(line["unparsable"] for line in lines) == 10
    assert requests == 2 * 8
    assert "10 answers to 6 comparisons, 10 unparsable and counted as ties" in capsys.readouterr().out
    statistics = json.loads((tmp_path / "judge/judge.json").read_text())
    assert (statistics["unparsable"], statistics["identical"]) == (10, 1)
    assert statistics["spent"]["prompt_tokens"] == 1600
    comparisons = tiny.logged(tmp_path / "judge", "comparisons")
    assert [c["answer"] for c in comparisons if c["share"] is None] == ["Beide sind gut."] * 10
    assert len(comparisons) == 12


def test_position_bias_is_measured(tmp_path):
    by_llm(tmp_path, prefers_first, MODELS)
    statistics = json.loads((tmp_path / "judge/judge.json").read_text())
    assert statistics["first_shown_wins"]["mean"] == 100.0
    assert statistics["order_consistency"]["mean"] == 0.0


def test_the_same_stage_again_costs_nothing(tmp_path):
    with serving(prefers_longer) as server:
        config = judge_config(server)
        lines = judged(tmp_path, MODELS, llm=config)
        sent = len(server.requests)
        before = {path: path.read_bytes() for path in (tmp_path / "judge").glob("*.json*")}
        for path in before:
            path.unlink()  # killed before it wrote them
        assert judged(tmp_path, MODELS, llm=config) == lines
        assert {path: path.read_bytes() for path in (tmp_path / "judge").glob("*.json*")} == before
        assert len(server.requests) == sent


def rewarded(id: str, rewards: list[float], **fields) -> Samples:
    return dataclasses.replace(sample(id, [f"{i}" for i in range(len(rewards))]), rewards=rewards, **fields)


def test_a_reward_model_judges_head_to_head(tmp_path):
    models = {"sft": [rewarded("a", [0.0, 1.0])], "bon": [rewarded("a", [-1.0, 1.0, 0.0], selected=1)]}
    [line] = judged(tmp_path, models, reward=True, against_reference=False)
    assert (line["model"], line["against"], line["preference"]) == ("bon", "sft", 1.75)
    assert (line["score"], line["against_score"], line["judge"]) == (1.0, 0.5, "reward model")


def test_likeness_to_the_reference_judges_head_to_head(tmp_path):
    models = {"sft": [sample("a", [BAD, FAIR])], "ppo": [sample("a", [FAIR])]}
    [line] = judged(tmp_path, models, similarity="rouge_l", against_reference=False)
    assert (line["preference"], line["judge"]) == (1.75, "ROUGE-L to the reference")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity": "rouge_l"}, r"similarity cannot .* \(it reads the human summary, which would win every time\)"),
        ({"reward": True}, r"reward cannot .* \(samples.jsonl holds no reward"),
        ({"reward": True, "against_reference": False}, "have no rewards"),
        ({"gold": GOLD, "reward": True}, "The judge is gold and reward, expected one"),
        ({"pairs": 1}, "The judge is missing, expected one of gold, llm, people, reward, similarity"),
    ],
)
def test_a_judge_that_cannot_do_it_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        judged(tmp_path, {"sft": [sample("a", [BAD])], "ppo": [sample("a", [GOOD])]}, **changes)
    assert not (tmp_path / "judge").exists()


def test_a_run_that_its_limit_stopped_goes_on_under_a_higher_one(tmp_path):
    paths = written(tmp_path, MODELS)
    with serving(prefers_longer) as server:
        config = to_dict(judge.Config("judge", paths, "sft", llm=judge_config(server)))
        del config["gold"]
        config["llm"]["spending"]["limit"] = 0.003  # an answer costs 0.0012
        with pytest.raises(UserError, match="could pass spending.limit, 0.003 USD"):
            run_stage(config, tmp_path / "judge")
        paid = sum(server.answered.values())
        assert 0 < paid < 8 and not (tmp_path / "judge/judgements.jsonl").exists()
        config["llm"]["spending"]["limit"] = 1.0
        run_stage(config, tmp_path / "judge")
    assert list(server.answered.values()) == [1] * 8
    assert len((tmp_path / "judge/judgements.jsonl").read_text().splitlines()) == 6
