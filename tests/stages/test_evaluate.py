import dataclasses
import itertools
import json

import numpy as np
import pytest

from rlhf_jax.data.formats import docstring_prompt
from rlhf_jax.data.records import Samples, write
from rlhf_jax.encoders import classifier, sentence
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import nli
from rlhf_jax.metrics.diversity import (
    across_input,
    expectation_adjusted_distinct,
    mean_distinct,
    ngram_cosine_diversity,
    pairwise_similarity_diversity,
    per_input,
)
from rlhf_jax.stages import evaluate
from tests import tiny

NO_NLI = evaluate.Nli(model="", samples=5, pairs=0)
TEXT = "Compute the inverse of a square matrix by elimination with pivots."
OUTPUTS = [
    ["invert a matrix", "compute the inverse of a matrix"],
    ["solve it.now", "solve it now"],
    ["again again", "matrix inverse"],
]


def sample(id: str, outputs: list[str], **fields) -> Samples:
    finish, rewards = ["eos"] * (len(outputs) - 1) + ["length"], [float(len(output)) for output in outputs]
    about = {"prompt": docstring_prompt("numpy", id, TEXT), "reference": "invert a matrix"}
    return tiny.samples(id, outputs, **about | {"finish": finish, "rewards": rewards} | fields)


def records(**fields) -> list[Samples]:
    return [sample(str(i), outputs, **fields) for i, outputs in enumerate(OUTPUTS)]


def evaluated(tmp_path, models: dict[str, list[Samples]], **changes) -> dict:
    paths = {model: str(tmp_path / f"{model}.jsonl") for model in models}
    for model, samples in models.items():
        write(paths[model], samples)
    settings = {"encoder": "", "nli": NO_NLI, "mode": "default", "pools": {}, "seed": 0} | changes
    evaluate.run(evaluate.Config("evaluate", paths, **settings), tmp_path / "out")
    return json.loads((tmp_path / "out/evaluation.json").read_text())


def hashed(texts: list[str]) -> np.ndarray:
    vectors = np.array([np.random.default_rng(list(text.encode())).normal(size=4) for text in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_means_over_outputs_come_before_those_over_prompts(tmp_path):
    result = evaluated(tmp_path, {"sft": records()})["models"]["sft"]["id_test"]
    lengths = [4.5, 2.5, 2.0]
    assert result["length"] == {
        "mean": np.mean(lengths),
        "standard_error": pytest.approx(np.std(lengths, ddof=1) / np.sqrt(3)),
        "n": 3,
    }
    assert result["finished"] == {"mean": 0.5, "standard_error": 0.0, "n": 3}
    assert result["copied"]["mean"] == pytest.approx(np.mean([2 / 3 / 2, 0, 0]))
    assert result["reward"]["mean"] == pytest.approx(np.mean([len(o) for outputs in OUTPUTS for o in outputs]))
    assert result["rouge_l"]["mean"] == pytest.approx(np.mean([(1 + 4 / 9) / 2, 0, 2 / 5 / 2]))
    assert result["repetition"]["mean"] == 0.0
    assert (result["prompts"], result["outputs"], result["temperature"]) == (3, 2, 1.0)


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_diversity_is_that_of_the_functions(tmp_path, monkeypatch, mode):
    calls = []
    monkeypatch.setattr(sentence, "load_encoder", lambda name: lambda texts: calls.append(texts) or hashed(texts))
    evaluation = evaluated(tmp_path, {"sft": records(), "ppo": records()}, encoder="some/encoder", mode=mode)
    assert (evaluation["encoder"], evaluation["mode"]) == ("some/encoder", mode)
    for result in (evaluation["models"][model]["id_test"] for model in ("sft", "ppo")):
        for scope, function in (("per_input", per_input), ("across_input", across_input)):
            ead = function(OUTPUTS, lambda texts: expectation_adjusted_distinct(texts, mode=mode))
            bert = function(OUTPUTS, lambda texts: pairwise_similarity_diversity(texts, hashed))
            distinct = function(OUTPUTS, lambda texts: mean_distinct(texts, mode=mode))
            cosine = function(OUTPUTS, lambda texts: ngram_cosine_diversity(texts, mode=mode))
            assert result[scope] == {
                "ead": ead,
                "distinct_n": distinct,
                "ngram_cosine": cosine,
                "sentence_bert": bert,
                "nli": {"not_computed": "no model is set for it"},
            }
    assert calls == [[text for texts in OUTPUTS for text in texts]]


def opposed(pairs) -> np.ndarray:
    """Contradiction where the lengths differ by an odd number, entailment where by an even one."""
    return np.array([np.eye(3)[0 if (len(a) - len(b)) % 2 else 2] * 0.9 + 0.1 / 3 for a, b in pairs])


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_diversity_by_inference_is_that_of_the_function_and_its_error_a_jackknife(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(classifier, "load_nli_classifier", lambda name: opposed)
    settings = evaluate.Nli("some/classifier", samples=2, pairs=0)
    evaluation = evaluated(tmp_path, {"sft": records()}, mode=mode, nli=settings)
    assert evaluation["nli"] == "some/classifier"
    result = evaluation["models"]["sft"]["id_test"]

    def diversity(texts):
        return nli.nli_diversity(texts, opposed, mode=mode, samples=2)

    for scope, function in (("per_input", per_input), ("across_input", across_input)):
        expected = function(OUTPUTS, diversity)
        assert result[scope]["nli"].pop("interval") == expected.pop("interval")
        assert result[scope]["nli"] == pytest.approx(expected)


def test_intervals_of_diversity_are_drawn_from_the_seed(tmp_path):
    samples = [sample(str(i), [f"word{i * i % 7} is", f"a word{i % 3} " + "is " * (i % 4)]) for i in range(25)]
    intervals = []
    for i, seed in enumerate((0, 0, 1)):
        (folder := tmp_path / f"{i}").mkdir()
        result = evaluated(folder, {"sft": samples}, seed=seed)["models"]["sft"]["id_test"]
        intervals.append([result[scope]["ngram_cosine"]["interval"] for scope in ("per_input", "across_input")])
    assert intervals[0] == intervals[1]
    assert all(one != other for one, other in zip(intervals[0], intervals[2], strict=True))


def test_splits_are_kept_apart(tmp_path):
    ood = [dataclasses.replace(record, id=f"ood{record.id}", split="ood_test") for record in records()[:2]]
    splits = evaluated(tmp_path, {"sft": [*ood, *records()]})["models"]["sft"]
    assert {split: result["prompts"] for split, result in splits.items()} == {"ood_test": 2, "id_test": 3}


def test_best_of_n_is_described_by_its_selected_outputs(tmp_path):
    result = evaluated(tmp_path, {"bon": records(selected=1)})["models"]["bon"]["id_test"]
    assert result["length"]["mean"] == pytest.approx((6 + 3 + 2) / 3)
    assert result["finished"]["mean"] == 0.0
    assert result["reward"]["mean"] == pytest.approx(np.mean([len(outputs[1]) for outputs in OUTPUTS]))
    assert result["per_input"]["ead"] == {"not_computed": "needs simulated Bo2 sets from a pool of at least 4N"}
    selected = [[outputs[1]] for outputs in OUTPUTS]
    assert result["across_input"]["ead"] == across_input(selected, expectation_adjusted_distinct)


def test_what_cannot_be_computed_says_why(tmp_path):
    other = records(rewards=None)
    other[0] = dataclasses.replace(other[0], prompt="Summarise: text")
    result = evaluated(tmp_path, {"sft": other})["models"]["sft"]["id_test"]
    assert result["reward"] == {"not_computed": "3 of 3 prompts carry no rewards"}
    for name in ("sentence_bert", "nli"):
        assert result["per_input"][name] == {"not_computed": "no model is set for it"}
        assert result["across_input"][name] == {"not_computed": "no model is set for it"}
    assert "no text field" in result["copied"]["not_computed"]

    single = evaluated(tmp_path / "single", {"sft": [sample("a", ["one"])]})["models"]["sft"]["id_test"]
    assert single["per_input"]["ead"] == {"not_computed": "needs two outputs per prompt or more"}
    assert single["across_input"]["ead"] == {"not_computed": "needs two prompts or more"}
    assert single["length"] == {"mean": 1.0, "standard_error": None, "n": 1}


def test_empty_outputs_have_results(tmp_path):
    result = evaluated(tmp_path, {"sft": [sample("a", ["", ""]), sample("b", ["", ""])]})["models"]["sft"]["id_test"]
    for metric in ("length", "rouge_l", "copied", "repetition"):
        assert result[metric] == {"mean": 0.0, "standard_error": 0.0, "n": 2}
    assert result["per_input"]["ead"]["mean"] == result["across_input"]["ead"]["mean"] == 0.0


def test_the_file_is_deterministic_and_left_alone_once_complete(tmp_path, capsys):
    evaluated(tmp_path, {"sft": records()})
    before = (tmp_path / "out/evaluation.json").read_bytes()
    evaluated(tmp_path, {"sft": records()[:1]})
    assert "complete" in capsys.readouterr().out
    assert (tmp_path / "out/evaluation.json").read_bytes() == before
    (tmp_path / "out/evaluation.json").unlink()
    evaluated(tmp_path, {"sft": records()})
    assert (tmp_path / "out/evaluation.json").read_bytes() == before


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (sample("x", ["a", "b"], temperature=0.7), "has temperature = 0.7, expected 1.0"),
        (sample("x", ["a", "b", "c"]), "has n = 3, expected 2"),
        (sample("x", ["a", "b"], selected=0), "differ in whether an output is selected"),
    ],
)
def test_uneven_samples_are_refused(tmp_path, last, message):
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path, {"sft": [*records(), last]})
    assert not (tmp_path / "out").exists()


def test_no_samples_and_an_unknown_mode_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no samples"):
        evaluated(tmp_path, {"sft": []})
    with pytest.raises(UserError, match='mode is "papr"'):
        evaluated(tmp_path, {"sft": records()}, mode="papr")


def test_a_best_of_n_policy_is_as_diverse_as_its_simulated_answers(tmp_path):
    """Per-input diversity is that of N answers, each the best of a subset: never the pool's worst output."""
    best = [sample(str(i), outputs, selected=0) for i, outputs in enumerate(OUTPUTS)]
    texts = [f"output number {i} of the pool" for i in range(8)]
    pool = [sample(str(i), texts, rewards=[float(r) for r in range(8)]) for i in range(3)]
    write(tmp_path / "pool.jsonl", pool)
    result = evaluated(tmp_path, {"bon": best}, pools={"bon": str(tmp_path / "pool.jsonl")})
    measured = result["models"]["bon"]["id_test"]["per_input"]["ead"]
    assert measured["n"] == 3
    values = {round(expectation_adjusted_distinct([a, b]), 9) for a in texts[1:] for b in texts[1:]}
    possible = [sum(three) / 3 for three in itertools.combinations_with_replacement(sorted(values), 3)]
    assert min(abs(measured["mean"] - value) for value in possible) < 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rewards": None}, 'lacks "0" with rewards at temperature 1.0'),
        ({"temperature": 0.5}, 'lacks "0" with rewards at temperature 1.0'),
        ({"outputs": ["a"] * 7, "rewards": [0.0] * 7, "finish": ["eos"] * 7, "n": 7}, "a pool of 7 is too small"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(tmp_path, fields, message):
    best = [sample(str(i), outputs, selected=0) for i, outputs in enumerate(OUTPUTS)]
    pool = [dataclasses.replace(sample(str(i), ["x"] * 8), **fields) for i in range(3)]
    write(tmp_path / "pool.jsonl", pool)
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path, {"bon": best}, pools={"bon": str(tmp_path / "pool.jsonl")})
    assert not (tmp_path / "out/evaluation.json").exists()
