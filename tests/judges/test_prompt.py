import re

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.judges.prompt import load_prompt, parse_ranking

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


@pytest.mark.parametrize("name", ["tldr", "cnn_dailymail", "instruction", "documentation"])
def test_a_prompt_shows_the_texts_in_order_and_asks_for_what_is_parsed(name):
    system, user = load_prompt(name).messages("TEXT {output_1}", "ONE {prompt} {output_2}", "TWO \\1")
    assert (system["role"], user["role"]) == ("system", "user")
    text = user["content"]
    assert text.index("TEXT {output_1}") < text.index("ONE {prompt} {output_2}") < text.index("TWO \\1")
    form = text[text.rindex("[") : text.rindex("]") + 1]
    values = iter(["'model_1'", "1", "'model_2'", "2"] if "<model-name>" in form else ["1", "2"])
    assert parse_ranking(re.sub("<.*?>", lambda field: next(values), form)) == 1.0


def test_the_study_asks_the_same_about_posts_and_articles():
    post, article = load_prompt("tldr"), load_prompt("cnn_dailymail")
    assert post.user.replace("forum post", "news article") == article.user
    assert post.system == article.system


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{prompt} {output_1} {output_2}", r"has no line \[system\]"),
        ("[system]\ns\n[user]\n{prompt} {output_1}", "shows the fields output_1, prompt to the user"),
        ("[system]\ns\n[user]\n{prompt} {output_1} {output_2} {output_2}", "each of prompt, output_1, output_2 once"),
    ],
)
def test_a_prompt_file_of_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_prompt(str(path))
    path.write_text("[system]\ns\n[user]\n{prompt}|{output_1}|{output_2}\n")
    assert [message["content"] for message in load_prompt(str(path)).messages("p", "a", "b")] == ["s", "p|a|b"]


def test_an_unknown_prompt_is_refused():
    with pytest.raises(
        UserError, match="'tldrr' does not exist, expected cnn_dailymail, documentation, instruction, tldr"
    ):
        load_prompt("tldrr")
