import json

import pytest

from rlhf_jax.data.formats import docstring_prompt
from rlhf_jax.data.records import Preference, write
from rlhf_jax.errors import UserError
from rlhf_jax.judges.gold import GoldConfig
from rlhf_jax.stages import agreement
from tests.chat_server import judge_config, prefers_longer, serving

PROMPT = docstring_prompt("scipy", "rotate", "Rotates the picture by some angle.")


@pytest.fixture
def data(tmp_path):
    """In `validation` the longer text is chosen 6 of 8 times, in `ood_test` always."""
    records = [Preference(f"v{i}", "validation", PROMPT, "long " * (i + 2), "short") for i in range(6)]
    records += [Preference(f"w{i}", "validation", PROMPT, "short", "long " * (i + 8)) for i in range(2)]
    records += [Preference(f"o{i}", "ood_test", PROMPT, "picture " * (i + 2), "none") for i in range(3)]
    path = tmp_path / "preferences.jsonl"
    write(path, records)
    return str(path)


def run(data, workdir, splits=("validation", "ood_test"), pairs=500, **judge) -> dict:
    agreement.run(agreement.Config("agreement", data, splits, pairs, seed=13, **judge), workdir)
    return json.loads((workdir / "agreement.json").read_text())


def test_a_language_model_is_held_against_people(tmp_path, data, capsys):
    with serving(prefers_longer) as server:
        found = run(data, tmp_path / "out", llm=judge_config(server))
        assert len(server.requests) == 22
        again = run(data, tmp_path / "out", llm=judge_config(server))
        assert len(server.requests) == 22 and again == found
    inside, outside = found["splits"]["validation"], found["splits"]["ood_test"]
    assert inside["accuracy"]["mean"] == 75.0 and inside["kappa"] == pytest.approx(0.5)
    assert outside["accuracy"]["mean"] == 100.0 and outside["kappa"] == 1.0
    assert inside["verdicts"]["order_consistency"]["mean"] == 100.0
    assert inside["verdicts"]["first_shown_wins"]["mean"] == 50.0
    assert found["judge"] == "judge-1 (documentation, both orders)"
    assert found["spent"]["prompt_tokens"] == 2200
    assert "validation: agrees with people on 75.0 % of 8, kappa 0.500" in capsys.readouterr().out


def test_a_judge_that_cannot_be_read_agrees_with_nobody(tmp_path, data):
    with serving(lambda messages: "?") as server:
        config = judge_config(server, max_unparsable=1.0)
        found = run(data, tmp_path / "out", ("ood_test",), llm=config)["splits"]["ood_test"]
    assert (found["accuracy"]["mean"], found["kappa"], found["ties"]) == (0.0, 0.0, 0)
    assert (found["n"], found["unparsable"]) == (3, 3)
    assert (found["verdicts"]["answers"], found["verdicts"]["unparsable"]) == (6, 6)


def test_the_gold_judge_is_held_against_people(tmp_path, data):
    found = run(data, tmp_path / "out", ("ood_test",), gold=GoldConfig("lexical", length_penalty=0.0, copy_penalty=0.0))
    assert found["judge"] == "gold (lexical)"
    assert found["splits"]["ood_test"]["accuracy"]["mean"] == 100.0


def test_pairs_are_drawn_by_the_seed(tmp_path, data):
    found = run(data, tmp_path / "out", ("validation",), pairs=5, gold=GoldConfig("lexical"))
    assert found["splits"]["validation"]["n"] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": ("test",), "gold": GoldConfig("lexical")}, 'no pairs in the split "test"'),
        ({}, "one of gold and llm"),
    ],
)
def test_bad_settings_are_refused(tmp_path, data, changes, message):
    with pytest.raises(UserError, match=message):
        run(data, tmp_path / "out", **changes)
    assert not (tmp_path / "out" / "agreement.json").exists()
