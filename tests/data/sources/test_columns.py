import pytest

from rlhf_jax.data.sources import columns
from rlhf_jax.errors import UserError

PAIR = {"prompt": "{q}", "chosen": "{good}", "rejected": "{bad}"}


@pytest.mark.parametrize(
    "templates", [{}, {"prompt": "{a}"}, {**PAIR, "response": ""}, {"prompt": "", "response": "", "margin": ""}]
)
def test_other_fields_are_refused(templates):
    with pytest.raises(UserError, match="expected prompt and response, or prompt, chosen and rejected"):
        columns.kind_of(templates)


def test_templates_are_filled_from_columns():
    read = columns.reader({"prompt": "{info.site}, {n}: {text}\nTL;DR:", "response": " {summary}\n"})
    row = {"info": {"site": "here"}, "n": 2, "text": "{summary} is kept", "summary": "short"}
    assert read(row) == {"prompt": "here, 2: {summary} is kept\nTL;DR:", "response": "short"}


def test_a_margin_is_a_number():
    read = columns.reader({**PAIR, "margin": "{m}"})
    row = {"q": "?", "good": " a", "bad": "b ", "m": 1.5}
    assert read(row) == {"prompt": "?", "chosen": "a", "rejected": "b", "margin": 1.5}
    for margin in ("much", "nan", "inf"):
        with pytest.raises(UserError, match=f"has the margin '{margin}', expected a number"):
            read(row | {"m": margin})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"good": None}, "has None in the column 'good', expected text or a number"),
        ({"good": ["a"]}, r"has \['a'\] in the column 'good'"),
    ],
)
def test_a_preference_without_a_winner_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        columns.reader(PAIR)({"q": "?", "good": "a", "bad": "b"} | changes)


def test_an_entry_of_a_list_has_a_number():
    """The first and the last message of a conversation, from either end."""
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    read = columns.reader({"prompt": "{messages.0.content}", "response": "{messages.-1.content}"})
    assert read(row) == {"prompt": "q", "response": "a"}
    for column in ("messages.2.content", "messages.-3.content", "messages.x"):
        with pytest.raises(UserError, match=f"has no column '{column}'"):
            columns.reader({"prompt": f"{{{column}}}", "response": ""})(row)
