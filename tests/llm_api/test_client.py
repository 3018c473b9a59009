import json
import time
from pathlib import Path

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.cache import Answer
from rlhf_jax.llm_api.client import Endpoint, Stopped
from tests.chat_server import ANSWER_TOKENS, PROMPT_TOKENS, TROUBLES, completion, endpoint_config, serving

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "Quelle est la réponse ?"}]


def say_yes(messages) -> str:
    return "yes"


def first_attempt(trouble: str):
    return lambda messages, attempt: trouble if attempt == 0 else None


def test_a_question_is_sent_as_configured_and_answered():
    with serving(say_yes) as server:
        config = endpoint_config(server, parameters={"temperature": 0.5, "max_completion_tokens": 7, "top_k": 3})
        answer = Endpoint(config).ask(MESSAGES)
    assert answer == Answer("yes", "stop", PROMPT_TOKENS, ANSWER_TOKENS)
    parameters = {"temperature": 0.5, "max_completion_tokens": 7, "top_k": 3}
    assert server.requests == [{"model": "judge-1", "messages": MESSAGES, **parameters}]
    assert server.keys == ["Bearer secret-of-the-test"]


@pytest.mark.parametrize("trouble", [*TROUBLES, "429 date"])
def test_after_trouble_the_question_is_sent_again_and_answered_once(trouble):
    with serving(say_yes, first_attempt(trouble)) as server:
        assert Endpoint(endpoint_config(server)).ask(MESSAGES).text == "yes"
    assert list(server.attempts.values()) == [2]
    assert list(server.answered.values()) == [1]
    assert server.early == 0, "Retry-After was not waited for"


@pytest.mark.parametrize(
    ("trouble", "reason", "attempts"),
    [
        ("500", "status 500, .*the trouble is 500", 3),
        ("429 insufficient_quota", "status 429", 3),
        ("html", "a body that is not a whole chat completion, '<html>Please log in", 3),
        ("400", "status 400", 1),
        ("401", "status 401", 1),
        ("404", "status 404", 1),
    ],
)
def test_a_question_without_an_answer_ends_with_the_last_reason(trouble, reason, attempts):
    failed = pytest.raises(UserError, match=f"no answer by 'judge-1' in up to 3 attempts, the last one: {reason}")
    with serving(say_yes, lambda messages, attempt: trouble) as server, failed as caught:
        Endpoint(endpoint_config(server, attempts=3)).ask(MESSAGES)
    assert "secret-of-the-test" not in str(caught.value)
    assert list(server.attempts.values()) == [attempts]


def test_attempts_are_counted_over_all_kinds_of_trouble():
    kinds = ["500", "html", "cut connection", "503", "truncated json"]
    with serving(say_yes, lambda messages, attempt: kinds[attempt]) as server, pytest.raises(UserError, match="whole"):
        Endpoint(endpoint_config(server, attempts=5)).ask(MESSAGES)
    assert list(server.attempts.values()) == [5]


def test_once_stopped_nothing_is_sent():
    with serving(say_yes) as server:
        endpoint = Endpoint(endpoint_config(server))
        endpoint.stop.set()
        with pytest.raises(Stopped):
            endpoint.ask(MESSAGES)
    assert not server.requests


@pytest.mark.parametrize("code", ["content_filter", "context_length_exceeded"])
def test_a_question_that_is_refused_for_itself_has_an_empty_answer(code):
    with serving(say_yes, lambda messages, attempt: f"400 {code}") as server:
        assert Endpoint(endpoint_config(server)).ask(MESSAGES) == Answer("", code, 0, 0)


# What servers say to a question that is too long, each in its own form and with its own status.
TOO_LONG = [json.loads(line) for line in (Path(__file__).parent / "too_long.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("said", TOO_LONG, ids=[said["server"] for said in TOO_LONG])
def test_a_question_that_is_too_long_is_settled_on_every_server(said):
    with serving(say_yes, lambda messages, attempt: (said["status"], said["body"])) as server:
        answer = Endpoint(endpoint_config(server, attempts=2)).ask(MESSAGES)
    assert answer == Answer("", "context_length_exceeded", 0, 0)


@pytest.mark.parametrize(
    ("status", "words", "body"),
    [
        (400, "max_tokens must be 1", {"message": "max_tokens must be 1 or more", "code": 400}),
        (404, "no such model", {"error": {"message": "no such model; the prompt is too long"}}),
        (429, "a minute", {"error": {"message": "Too many tokens in a minute", "code": "rate_limit_exceeded"}}),
        (403, "Forbidden", {"error": "Forbidden"}),
        # FastAPI repeats what it was sent, here a text about context lengths.
        (422, "Extra inputs", {"detail": [{"msg": "Extra inputs", "input": "The maximum context length is 9."}]}),
    ],
)
def test_other_refusals_end_with_what_the_server_says(status, words, body):
    failed = pytest.raises(UserError, match=f"status {status}, .*{words}")
    with serving(say_yes, lambda messages, attempt: (status, body)) as server, failed:
        Endpoint(endpoint_config(server, attempts=1)).ask(MESSAGES)


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "no?"}]}, {"type": "text", "text": "yes"}]


@pytest.mark.parametrize(
    ("message", "finish", "text"),
    [
        ({"content": "yes"}, "stop", "yes"),
        ({"content": [{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]}, "stop", "yes"),
        ({"content": PARTS}, "stop", "yes"),
        ({"content": ["yes"]}, "stop", "yes"),
        ({"content": {"type": "text", "text": "yes"}}, "stop", "yes"),
        ({"content": []}, "stop", ""),
        ({"content": None, "refusal": "I will not."}, "stop", "I will not."),
        ({"content": [{"type": "refusal", "refusal": "I will not."}]}, "stop", "I will not."),
        ({"content": None}, "length", ""),
        ({"content": None, "reasoning_content": "Is it yes"}, "length", ""),
        ({"content": "", "reasoning": "Is it yes"}, "length", ""),
        ({"content": "yes", "reasoning_content": "no?"}, "stop", "yes"),
        ({"content": None, "reasoning_content": "yes"}, "stop", "yes"),
        ({"content": "<think>no?</think>\nyes"}, "stop", "\nyes"),
        ({"content": "no?</think>yes"}, "stop", "yes"),
        ({"content": "<think>Is it yes"}, "length", ""),
        ({"content": "The tag <think> is not </think> there."}, "stop", "The tag <think> is not </think> there."),
        ({"role": "assistant"}, "content_filter", ""),
    ],
)
def test_every_known_form_of_an_answer_is_read_and_paid_once(message, finish, text):
    discarded = []
    with serving(say_yes, lambda messages, attempt: (200, completion(message, finish))) as server:
        answer = Endpoint(endpoint_config(server)).ask(MESSAGES, discarded.append)
    assert answer == Answer(text, finish, PROMPT_TOKENS, ANSWER_TOKENS)
    assert len(server.requests) == 1 and not discarded


@pytest.mark.parametrize(
    ("body", "paid"),
    [
        (completion({"content": 7}), (PROMPT_TOKENS, ANSWER_TOKENS)),
        (completion({"content": [{"type": "text", "text": 7}]}), (PROMPT_TOKENS, ANSWER_TOKENS)),
        (completion("yes", usage=False), (None, None)),
        (completion({"content": ""}, "error"), (PROMPT_TOKENS, ANSWER_TOKENS)),
        (completion({"content": "ye"}, None, error={"code": 502}), (PROMPT_TOKENS, ANSWER_TOKENS)),
        ({"choices": [], "usage": {"input_tokens": 5, "output_tokens": -1}}, (5, None)),
        ({"error": {"message": "overloaded"}}, None),
        ([], None),
    ],
)
def test_what_cannot_be_read_is_sent_again_and_its_tokens_are_told(body, paid):
    discarded = []
    with serving(say_yes, lambda messages, attempt: (200, body) if attempt < 2 else None) as server:
        assert Endpoint(endpoint_config(server)).ask(MESSAGES, discarded.append).text == "yes"
    assert [answer[2:] for answer in discarded] == ([paid] * 2 if paid else [])


def test_a_server_that_is_not_there_is_told(monkeypatch):
    with serving() as server:
        config = endpoint_config(server, attempts=2)
    monkeypatch.setenv("CHAT_KEY", "any")
    with pytest.raises(UserError, match=r"in up to 2 attempts, .*Connection"):
        Endpoint(config).ask(MESSAGES)


def test_attempts_are_spaced_by_the_rate():
    with serving(say_yes) as server:
        endpoint = Endpoint(endpoint_config(server, requests_per_minute=1200))
        start = time.monotonic()
        for _ in range(4):
            endpoint.ask(MESSAGES)
        assert time.monotonic() - start >= 3 * 60 / 1200


def test_address_and_model_come_from_the_environment(monkeypatch):
    with serving(say_yes) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_MODEL", "judge-2")
        assert Endpoint(endpoint_config(server, base_url="", model="")).ask(MESSAGES).text == "yes"
    assert server.requests[0]["model"] == "judge-2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "no OPENAI_MODEL"),
        ({"key_variable": "ABSENT_KEY"}, "no ABSENT_KEY"),
        ({"base_url": "localhost:8000/v1"}, "expected one like http://localhost:8000/v1"),
        ({"parameters": {"temperature": 0.0}}, "expected max_tokens or max_completion_tokens"),
        ({"parameters": {"max_tokens": 9, "n": 2}}, "which this client sets itself"),
    ],
)
def test_settings_that_do_not_fit_are_refused(monkeypatch, changes, message):
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    with serving() as server, pytest.raises(UserError, match=message):
        Endpoint(endpoint_config(server, **changes))
    assert not server.requests
