"""Nothing is lost and nothing is counted twice, whatever the endpoint does. The server keeps the books."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.batch import Question, ask_all
from rlhf_jax.llm_api.budget import Spending, SpendingConfig, Tokens, estimate
from rlhf_jax.llm_api.cache import AnswerCache
from rlhf_jax.llm_api.client import Endpoint
from tests.chat_server import ANSWER_TOKENS, PROMPT_TOKENS, TROUBLES, completion, endpoint_config, serving

ROOT = Path(__file__).parents[2]
PRICES = SpendingConfig(prompt_price=10.0, answer_price=100.0, limit=1.0)
USED = (PROMPT_TOKENS * 10 + ANSWER_TOKENS * 100) / 1e6  # USD an answer


def questions(count: int, repeat: int = 0) -> list[Question]:
    return [Question([{"role": "user", "content": f"question {index}"}], repeat) for index in range(count)]


def echo(messages) -> str:
    return messages[-1]["content"].upper()


def ask(server, asked, path, spending=None, **changes) -> list[str]:
    endpoint = Endpoint(endpoint_config(server, **changes))
    answers = ask_all(asked, endpoint, AnswerCache(path), spending or Spending(PRICES), "questions")
    return [answer.text for answer in answers]


def test_under_all_troubles_at_once_every_question_is_answered_once(tmp_path):
    dice = random.Random(0)
    quick = [trouble for trouble in TROUBLES if trouble not in ("no answer", "429 seconds")]
    plans = {f"question {index}": dice.choices(quick, k=dice.randrange(4)) for index in range(40)}
    plans["question 7"] = ["429 seconds", "no answer", "cut body"]

    def trouble(messages, attempt):
        plan = plans[messages[-1]["content"]]
        return plan[attempt] if attempt < len(plan) else None

    spending = Spending(PRICES)
    with serving(echo, trouble) as server:
        answers = ask(server, questions(40), tmp_path / "answers.sqlite", spending, concurrency=8)
    assert answers == [f"QUESTION {index}" for index in range(40)]
    assert list(server.answered.values()) == [1] * 40
    assert sum(server.attempts.values()) == 40 + sum(map(len, plans.values()))
    # A completion that could not be read was paid too. This server does not say how many tokens it took.
    unread = [index for index in range(40) for kind in plans[f"question {index}"] if kind == "text is a number"]
    estimated = sum(estimate(questions(40)[index].messages, 20).prompt for index in unread)
    assert spending.tokens == Tokens(40 * PROMPT_TOKENS + estimated, 40 * ANSWER_TOKENS + 20 * len(unread))
    assert spending.uncounted == len(unread) > 0


def test_equal_questions_are_asked_once_and_repeats_anew(tmp_path):
    with serving(echo) as server:
        answers = ask(server, questions(2) + questions(2) + questions(2, repeat=1), tmp_path / "answers.sqlite")
    assert answers == ["QUESTION 0", "QUESTION 1"] * 3
    assert list(server.answered.values()) == [2, 2]


def test_asking_again_sends_nothing_and_says_so(tmp_path, capsys):
    path = tmp_path / "answers.sqlite"
    first, second = Spending(PRICES), Spending(PRICES)
    with serving(echo) as server:
        answers = ask(server, questions(5), path, first)
        capsys.readouterr()
        assert ask(server, questions(5), path, second) == answers
    assert len(server.requests) == 5
    assert second.summary() == first.summary(), "what the answers cost is known again"
    assert capsys.readouterr().out == "judge-1: 5 questions, 5 of them answered before.\n"


def test_whatever_determines_an_answer_is_part_of_its_key(tmp_path):
    path = tmp_path / "answers.sqlite"
    with serving(echo) as server:
        ask(server, questions(1), path)
        ask(server, questions(1), path, model="judge-2")
        ask(server, questions(1), path, parameters={"temperature": 1.0, "max_tokens": 20})
        ask(server, questions(1), path, base_url=server.url + "/")  # the same address
        ask(server, questions(1), path, concurrency=1, timeout=9.0)  # these do not
    assert len(server.requests) == 3


def test_the_estimate_is_told_before_the_first_question_is_sent(tmp_path, capsys):
    with serving(echo, lambda messages, attempt: "401") as server, pytest.raises(UserError, match="status 401"):
        ask(server, questions(3), tmp_path / "answers.sqlite")
    prompt = 3 * (3 + 4)  # 10 bytes are 3 tokens, and 4 are the message's
    cost = (prompt * 10 + 60 * 100) / 1e6
    line = capsys.readouterr().out
    assert line.startswith("judge-1: 3 questions, 0 of them answered before; the other 3 may take ")
    assert line.endswith(f"{prompt} prompt and 60 answer tokens, {cost:.4f} USD (limit 1).\n")


def test_the_limit_stops_before_it_is_passed_and_a_higher_one_goes_on(tmp_path):
    path = tmp_path / "answers.sqlite"
    config = SpendingConfig(PRICES.prompt_price, PRICES.answer_price, limit=5.5 * USED)
    with serving(echo) as server:
        spending = Spending(config)
        with pytest.raises(UserError, match=r"could pass spending.limit, 0.011 USD of which 0.0100 are spent"):
            ask(server, questions(20), path, spending)
        assert len(server.answered) == 5
        assert spending.spent == pytest.approx(5 * USED)
        with pytest.raises(UserError, match="spending.limit"):
            ask(server, questions(20), path, Spending(config))
        assert len(server.answered) == 5, "what was paid before counts"
        assert len(ask(server, questions(20), path)) == 20
    assert list(server.answered.values()) == [1] * 20


def test_what_was_paid_for_nothing_counts_towards_the_limit_also_in_the_next_run(tmp_path):
    path = tmp_path / "answers.sqlite"
    config = SpendingConfig(PRICES.prompt_price, PRICES.answer_price, limit=4 * USED)
    with serving(echo, lambda messages, attempt: (200, completion({"content": 7}))) as server:
        spending = Spending(config)
        with pytest.raises(UserError, match="could pass spending.limit"):
            ask(server, questions(1), path, spending, attempts=8)
        sent = len(server.requests)
        assert spending.spent == pytest.approx(sent * USED) and 2 <= sent <= 4
        with pytest.raises(UserError, match="could pass spending.limit"):
            ask(server, questions(1), path, Spending(config))
        assert len(server.requests) == sent


@pytest.mark.parametrize(
    ("text", "finish", "stored"),
    [("x", "stop", True), ("", "length", True), ("", "content_filter", True), ("", "stop", False), ("", None, False)],
)
def test_an_empty_answer_is_stored_only_with_a_reason_that_stays(tmp_path, text, finish, stored):
    path, spending = tmp_path / "answers.sqlite", Spending(PRICES)
    with serving(echo, lambda messages, attempt: (200, completion({"content": text}, finish))) as server:
        assert ask(server, questions(1), path) == ask(server, questions(1), path, spending) == [text]
    assert len(server.requests) == (1 if stored else 2)
    assert spending.spent == pytest.approx(len(server.requests) * USED), "what was paid counts in each run"


def test_answers_under_way_are_kept_when_another_question_fails_for_good(tmp_path):
    path = tmp_path / "answers.sqlite"
    fail = {"question 3"}

    def trouble(messages, attempt):
        return "400" if messages[-1]["content"] in fail else None

    with serving(echo, trouble) as server:
        with pytest.raises(UserError, match="status 400"):
            ask(server, questions(12), path)
        fail.clear()
        assert ask(server, questions(12), path) == [f"QUESTION {index}" for index in range(12)]
    assert list(server.answered.values()) == [1] * 12


PROGRAM = """
import sys
from pathlib import Path
from rlhf_jax.llm_api.cache import AnswerCache
from rlhf_jax.llm_api.batch import ask_all
from rlhf_jax.llm_api.client import Endpoint
from rlhf_jax.llm_api.budget import Spending
from tests.chat_server import endpoint_config
from tests.llm_api.test_batch import PRICES, questions

class Server:
    url = sys.argv[1]

endpoint = Endpoint(endpoint_config(Server, timeout=60.0))
ask_all(questions(12), endpoint, AnswerCache(Path(sys.argv[2])), Spending(PRICES), "questions")
"""


def test_a_run_that_is_killed_loses_only_what_was_under_way(tmp_path):
    path = tmp_path / "answers.sqlite"
    numbers = iter(range(100))

    def trouble(messages, attempt):
        return None if next(numbers) < 5 else "no answer"

    with serving(echo, trouble) as server:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url, path], cwd=ROOT)
        try:
            while len(server.requests) < 9 or rows(path) < 5:  # 5 answered, 4 under way
                assert process.poll() is None, "the run ended by itself"
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        server.trouble = lambda messages, attempt: None
        assert ask(server, questions(12), path) == [f"QUESTION {index}" for index in range(12)]
    assert list(server.answered.values()) == [1] * 12
    assert sum(server.attempts.values()) == 12 + 4


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select count(*) from answers").fetchone()[0]
