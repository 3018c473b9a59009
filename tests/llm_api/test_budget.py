import threading

import pytest

from rlhf_jax.llm_api.budget import Spending, SpendingConfig, Tokens, estimate
from rlhf_jax.llm_api.cache import Answer

CONFIG = SpendingConfig(prompt_price=2.0, answer_price=10.0, limit=0.01)
QUESTION = Tokens(1000, 100)  # 0.003 USD


def test_tokens_are_paid_by_the_million():
    assert Spending(CONFIG).cost(QUESTION) == pytest.approx(1000 * 2 / 1e6 + 100 * 10 / 1e6)


def test_an_estimate_counts_bytes_and_the_longest_answer():
    assert estimate([{"role": "user", "content": "abcdefgh"}], 50) == Tokens(2 + 4, 50)
    assert estimate([{"role": "user", "content": "日本語"}], 50).prompt == 3 + 4


def test_reservations_cannot_pass_the_limit_together_and_settle_to_what_was_used():
    spending = Spending(CONFIG)
    assert all(spending.reserve(QUESTION) for _ in range(3))
    outcome = []
    waiting = threading.Thread(target=lambda: outcome.append(spending.reserve(QUESTION)), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive(), "the fourth waits for the others: 4 x 0.003 > 0.01"
    spending.settle(QUESTION, Answer("", "stop", 400, 10))
    waiting.join(10)
    assert outcome == [True]
    for _ in range(2):
        spending.settle(QUESTION, Answer("", "stop", 1000, 100))
    spending.settle(QUESTION, None)
    assert spending.tokens == Tokens(2400, 210)
    assert spending.spent == pytest.approx(0.0069)
    assert spending.reserve(QUESTION)
    spending.settle(QUESTION, Answer("", "stop", 1000, 100))
    assert not spending.reserve(QUESTION), "0.0099 + 0.003 > 0.01, and nothing is under way"


def test_answers_without_counts_are_estimated_and_said_to_be():
    spending = Spending(CONFIG)
    spending.count(Answer("", "stop", None, None), QUESTION)
    spending.count(Answer("", "stop", 1, 2), QUESTION)
    assert spending.summary() == {"prompt_tokens": 1001, "answer_tokens": 102, "usd": 0.003022, "uncounted": 1}


def test_without_prices_there_is_no_cost_and_this_is_said():
    spending = Spending(SpendingConfig(0.0, 0.0, 0.0))
    assert spending.reserve(QUESTION)
    assert "no prices given" in spending.in_words(QUESTION)
