"""A chat completions API on this machine that misbehaves on purpose, and counts what it answers.

A trouble is a status with an error's code behind it, a word of `TROUBLES`, or a status and the body itself.
"""

import email.utils
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf_jax.judges.llm import LlmJudgeConfig
from rlhf_jax.llm_api.budget import SpendingConfig
from rlhf_jax.llm_api.client import EndpointConfig

PATIENCE = 1.0
"""Seconds until a client gives up on `no answer`: short for a test, long beside what a busy machine takes to answer."""
WHOLE = json.dumps({"choices": [{"message": {"content": "[{'model': 'model_1', 'rank': 1}]" * 9}}]})
WRONG_BODIES = {
    "truncated json": WHOLE[: len(WHOLE) // 2],
    "html": "<html>Please log in</html>",
    "no choices": json.dumps({"error": "busy", "choices": []}),
    "wrong types": json.dumps([WHOLE]),
    "text is a number": json.dumps({"choices": [{"message": {"content": 7}}]}),
}
TROUBLES = ("429", "429 seconds", "500", "503", "no answer", "cut body", "cut connection", *WRONG_BODIES)
PROMPT_TOKENS, ANSWER_TOKENS = 100, 10

type Messages = list[dict[str, str]]
type Trouble = str | tuple[int, object] | None


class ChatServer(ThreadingHTTPServer):
    """Answers `answer(messages)` once `trouble(messages, attempt)` is None. It counts attempts from 0, per question.

    Attributes:
      attempts: requests by question.
      answered: whole answers that were sent, by question.
      requests: the bodies of all requests.
      early: requests that came before the time that a `Retry-After` had named.
      usage: whether answers say how many tokens they took.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[Messages], str], trouble: Callable[[Messages, int], Trouble]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.trouble = answer, trouble
        self.attempts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        self.early = 0
        self.usage = True
        self.not_before = 0.0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = json.dumps(body["messages"])
        with server.lock:
            attempt = server.attempts[question]
            server.attempts[question] += 1
            server.requests.append(body)
            server.keys.append(self.headers["Authorization"])
            server.early += time.time() < server.not_before
        trouble = server.trouble(body["messages"], attempt) if self.path == "/v1/chat/completions" else "404"
        if trouble is not None:
            return self._misbehave(trouble)
        body = completion({"role": "assistant", "content": server.answer(body["messages"])}, usage=server.usage)
        with server.lock:
            server.answered[question] += 1
        self._send(200, json.dumps(body))

    def _misbehave(self, trouble: Trouble) -> None:
        if isinstance(trouble, tuple):
            return self._send(trouble[0], json.dumps(trouble[1]))
        code, _, rest = trouble.partition(" ")
        if trouble == "no answer":
            self.server.closing.wait(60)
            self.close_connection = True
        elif trouble == "cut body":
            self._send(200, WHOLE[: len(WHOLE) // 2], length=len(WHOLE))
            self.close_connection = True
        elif trouble == "cut connection":
            self.close_connection = True
        elif trouble in WRONG_BODIES:
            self._send(200, WRONG_BODIES[trouble], kind="text/html" if trouble == "html" else "application/json")
        elif rest == "seconds":
            self.server.not_before = time.time() + 0.2
            self._send(int(code), "{}", {"Retry-After": "0.2"})
        elif rest == "date":
            self.server.not_before = math.ceil(time.time()) + 0.0
            date = email.utils.formatdate(self.server.not_before, usegmt=True)
            self._send(int(code), "{}", {"Retry-After": date})
        else:
            error = {"message": f"the trouble is {trouble}", "code": rest or None}
            self._send(int(code), json.dumps({"error": error}))

    def _send(self, status: int, body: str, headers: dict | None = None, kind="application/json", length=None) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        """Nothing to standard error."""


@contextmanager
def serving(
    answer: Callable[[Messages], str] | None = None,
    trouble: Callable[[Messages, int], Trouble] = lambda messages, attempt: None,
) -> Iterator[ChatServer]:
    """A server in a thread, and the key that its client needs in the environment."""
    server = ChatServer(answer or prefers_longer, trouble)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("CHAT_KEY", "secret-of-the-test")
            environment.setenv("NO_PROXY", "127.0.0.1")
            environment.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
            environment.setattr("rlhf_jax.llm_api.client._PAUSE", 0.01)
            yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def completion(message: object, finish: str | None = "stop", usage: bool = True, **choice: object) -> dict:
    """A completion whose message is anything at all."""
    tokens = {"usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS}} if usage else {}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}], **tokens}


def endpoint_config(server: ChatServer, **changes) -> EndpointConfig:
    return EndpointConfig(
        **{
            "base_url": server.url,
            "model": "judge-1",
            "key_variable": "CHAT_KEY",
            "parameters": {"temperature": 0.0, "max_tokens": 20},
            "concurrency": 4,
            "requests_per_minute": 0,
            "timeout": PATIENCE,
            "attempts": 6,
        }
        | changes
    )


def judge_config(server: ChatServer, **changes) -> LlmJudgeConfig:
    endpoint = endpoint_config(server, **changes.pop("endpoint", {}))
    spending = SpendingConfig(prompt_price=10.0, answer_price=20.0, limit=1.0)
    defaults = {"prompt": "documentation", "prompts": {}, "order": "both", "repeats": 1, "seed": 0, "cache": ""}
    return LlmJudgeConfig(**defaults | {"endpoint": endpoint, "spending": spending} | changes)


def shown(messages: Messages) -> tuple[str, str]:
    """The two outputs in a question."""
    first, second = re.findall(r'"model": "model_\d", "\w+": """(.*?)""" }', messages[1]["content"], re.DOTALL)
    return first, second


def ranking(first: int, second: int) -> str:
    return f"[{{'model': 'model_1', 'rank': {first}}}, {{'model': 'model_2', 'rank': {second}}}]"


def prefers_longer(messages: Messages) -> str:
    """A judge that is blind to order."""
    first, second = map(len, shown(messages))
    return ranking(1, 1) if first == second else ranking(1, 2) if first > second else ranking(2, 1)


def prefers_first(messages: Messages) -> str:
    """A judge that sees nothing but order."""
    return ranking(1, 2)
