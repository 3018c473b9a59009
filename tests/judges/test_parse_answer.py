import pytest

from rlhf_jax.judges.parse_answer import parse_ranking

WINS = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
LOSES = "[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]"
TIES = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 1}]"


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (WINS, 1.0),
        (LOSES, 0.0),
        (TIES, 0.5),
        ("[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", 0.0),
        ('```json\n[\n {"model": "model_1", "rank": 1},\n {"model": "model_2", "rank": "2"}\n]\n```', 1.0),
        (f"Die zweite Zusammenfassung ist besser [siehe oben].\n{LOSES}\nViel Erfolg!", 0.0),
        (f'{{"ranking": {WINS}}}', 1.0),
        (f"{WINS} and so, once more, {WINS}", 1.0),
    ],
)
def test_a_ranking_is_read_whatever_stands_around_it(answer, share):
    assert parse_ranking(answer) == share


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Die erste ist besser.",
        "model_1",
        "[]",
        "[1, 2]",
        WINS[:-1],
        f"{WINS} or rather {LOSES}",
        "[{'model': 'model_1', 'rank': 1}]",
        "[{'model': 'model_1', 'rank': 1}, {'model': 'model_1', 'rank': 2}]",
        "[{'model': 'model_1', 'rank': 1}, {'model': 'model_3', 'rank': 2}]",
        "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 3}]",
        "[{'model': 'model_1', 'rank': True}, {'model': 'model_2', 'rank': 2}]",
        "[{'model': <model-name>, 'rank': <model-rank>}]",
        "[{'model': 'model_1', 'rank': 1}, {{}: 2}]",
        "[{'model': ['model_1'], 'rank': 1}, {'model': 'model_2', 'rank': 2}]",
        "[" + "{" * 5000 + "]",
        "[" * 5000,
        "[" + "-" * 100_000 + "1]",
        "[" + "9" * 5000 + "]",
        "[{'model': '\\d', 'rank': 1}]",
        "[\x00]",
    ],
)
def test_anything_else_is_not_guessed_at(answer):
    assert parse_ranking(answer) is None


def test_an_expression_is_not_executed(tmp_path):
    trap = tmp_path / "trap"
    expression = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    assert eval(expression) is None and trap.exists(), "the trap works"
    trap.unlink()
    for rank in (expression, f"{expression} or 1"):
        assert parse_ranking(f"[{{'model': 'model_1', 'rank': {rank}}}, {{'model': 'model_2', 'rank': 2}}]") is None
    assert not trap.exists()
