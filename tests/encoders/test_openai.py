"""Embeddings over HTTP, from a server on this machine that also fails."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rlhf_jax.encoders import openai
from rlhf_jax.encoders.sentence import load_encoder
from rlhf_jax.errors import UserError

type Reply = Callable[[dict, int], tuple[int, dict]]


def vector(text: str) -> list[float]:
    return [float(len(text)), 1.0, 2.0]


def embeddings(texts: list[str]) -> dict:
    """In another order than they were asked for, as the API allows."""
    data = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
    return {"object": "list", "model": "m", "data": data[::-1], "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def answer(body: dict, attempt: int) -> tuple[int, dict]:
    return 200, embeddings(body["input"])


@contextmanager
def serving(reply: Reply) -> Iterator[list[dict]]:
    """The bodies of all requests, which `reply(body, attempt)` answers."""
    bodies: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, content = reply(bodies[-1], len(bodies) - 1) if self.path == "/v1/embeddings" else (404, {})
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_) -> None:
            """Nothing to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
            environment.setenv("OPENAI_API_KEY", "secret-of-the-test")
            environment.setenv("NO_PROXY", "127.0.0.1")
            yield bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_vectors_are_unit_and_in_the_order_of_the_texts(monkeypatch):
    monkeypatch.setattr(openai, "TEXTS_PER_REQUEST", 2)
    texts = ["a", "bcd", "", "ef", "ghijk"]
    with serving(answer) as bodies:
        found = load_encoder("openai:embed-1")(texts)
    expected = np.array([vector(text or " ") for text in texts])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)
    assert [body["input"] for body in bodies] == [["a", "bcd"], [" ", "ef"], ["ghijk"]]
    assert {body["model"] for body in bodies} == {"embed-1"}


def test_after_trouble_a_request_is_sent_again():
    def busy_at_first(body: dict, attempt: int) -> tuple[int, dict]:
        return ((429, {}), (500, {}), answer(body, attempt))[min(attempt, 2)]

    with serving(busy_at_first) as bodies:
        assert load_encoder("openai:embed-1")(["a"]).shape == (1, 3)
    assert len(bodies) == 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda body, attempt: (401, {"error": {"message": "no such key"}}), "gives no embeddings by 'embed-1': .*401"),
        (lambda body, attempt: (200, embeddings(body["input"][:1])), "answered 1 embeddings, expected 2"),
        (
            lambda body, attempt: (200, {"data": [{"index": i, "embedding": [0.0, 0.0]} for i in range(2)]}),
            "an embedding without a length",
        ),
    ],
)
def test_what_is_no_answer_is_a_sentence(reply, message):
    with serving(reply), pytest.raises(UserError, match=message) as caught:
        load_encoder("openai:embed-1")(["a", "b"])
    assert "secret-of-the-test" not in str(caught.value)


def test_without_a_key_nothing_is_asked(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="The environment has no OPENAI_API_KEY"):
        load_encoder("openai:embed-1")
