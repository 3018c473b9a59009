import re

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.judges.parse_answer import parse_ranking
from rlhf_jax.judges.prompt import load_prompt


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
