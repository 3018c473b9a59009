"""A client for one endpoint that speaks OpenAI's chat completions API."""

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf_jax.config import Count, CountOrZero, Positive, may_change
from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.cache import Answer, Message

# The endpoint never answers such a question, however often it is sent. Other questions can still be asked.
_REFUSALS = frozenset({"content_filter", "context_length_exceeded"})
_PAUSE = 0.5


@dataclass(frozen=True)
class EndpointConfig:
    """The address of an endpoint and the settings of requests. The key is only read from the environment.

    Attributes:
      base_url: the API's address, up to and with `/v1`. "" is OPENAI_BASE_URL, or OpenAI's own if that is not set.
      model: its name there, best with its date. "" is OPENAI_MODEL.
      key_variable: the environment variable that holds the key.
      parameters: further fields of each request, as the API names them. They must bound the answer by `max_tokens` or
        `max_completion_tokens`.
      concurrency: number of questions asked at once.
      requests_per_minute: largest number of attempts started per minute. 0 for no limit.
      timeout: seconds to wait for the connection, and then for each part of the answer.
      attempts: how often a question is sent before the run gives up.
    """

    RENAMED: ClassVar[dict[str, str | None]] = {"first_wait": None}

    base_url: str
    model: str
    key_variable: str = may_change()
    parameters: dict[str, Any]
    concurrency: Count = may_change()
    requests_per_minute: CountOrZero = may_change()
    timeout: Positive = may_change()
    attempts: Count = may_change()


class Stopped(Exception):
    """The question was given up because another one failed for good."""


class Endpoint:
    """The client of one endpoint, for any number of threads.

    Attributes:
      model: the model's name.
      base_url: the API's address.
      longest_answer: largest number of tokens in an answer.
      stop: once set, nothing more is sent and waiting questions raise `Stopped`.
    """

    def __init__(self, config: EndpointConfig) -> None:
        """Reads the key. Nothing is sent yet.

        Raises:
          UserError: no model, no key, an address that is not a URL, or parameters that do not fit.
        """
        import openai

        self.config = config
        self.longest_answer = _longest_answer(config.parameters)
        self.model = config.model or os.environ.get("OPENAI_MODEL", "")
        if not self.model:
            raise UserError('endpoint.model is "" and the environment has no OPENAI_MODEL, expected a model\'s name.')
        key = os.environ.get(config.key_variable)
        if not key:
            raise UserError(
                f"The environment has no {config.key_variable} (endpoint.key_variable), expected the endpoint's key. "
                "An endpoint without keys takes any word."
            )
        self._client = openai.OpenAI(
            api_key=key,
            base_url=config.base_url or None,
            timeout=config.timeout,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._wait_for_turn]}),
        )
        self.base_url = str(self._client.base_url)
        if self._client.base_url.scheme not in ("http", "https") or not self._client.base_url.host:
            raise UserError(f"The endpoint's address is {self.base_url!r}, expected one like http://localhost:8000/v1.")
        self.stop = threading.Event()
        self._interval = 60 / config.requests_per_minute if config.requests_per_minute else 0.0
        self._next_turn = time.monotonic()
        self._lock = threading.Lock()

    def request(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Returns the body of a request. It and the address determine the answer."""
        return {"model": self.model, "messages": list(messages), **self.config.parameters}

    def ask(self, messages: Sequence[Message]) -> Answer:
        """Sends a question until it is answered.

        The openai client sends it again after connections that fail or are cut, time-outs, and status 408, 409, 429
        and 5xx. It waits for `Retry-After`, or for a time that doubles. Bodies that are not a whole completion count
        as attempts too. A question that the endpoint refuses for its content or its length is answered by "" with the
        refusal as its `finish`.

        Raises:
          UserError: any other status (the key, the model's name, a parameter), or no answer after all attempts.
          Stopped: `stop` was set meanwhile.
        """
        import openai

        left = self.config.attempts
        while True:
            completions = self._client.with_options(max_retries=left - 1).chat.completions
            try:
                # extra_body: parameters that the client does not know are sent too.
                response = completions.with_raw_response.create(
                    model=self.model, messages=list(messages), extra_body=self.config.parameters
                )
                return _read(response.text)
            except openai.APIStatusError as error:
                if error.code in _REFUSALS:
                    return Answer("", error.code, 0, 0)
                raise self._failure(f"status {error.status_code}, {error.message}") from None
            except openai.APIConnectionError as error:
                raise self._failure(f"{error.message.rstrip('.')} ({type(error.__cause__).__name__})") from None
            except ValueError as error:
                left -= 1 + response.retries_taken
                if left < 1:
                    raise self._failure(str(error)) from None
                self.stop.wait(_PAUSE)

    def _failure(self, reason: str) -> UserError:
        reason = " ".join(reason.split())[:300].rstrip(".")
        return UserError(
            f"{self.base_url} gives no answer by {self.model!r} in up to {self.config.attempts} attempts, the last "
            f"one: {reason}."
        )

    def _wait_for_turn(self, request: Any) -> None:
        """Spaces the attempts of all threads evenly."""
        with self._lock:
            turn = max(self._next_turn, time.monotonic())
            self._next_turn = turn + self._interval
        if self.stop.wait(max(turn - time.monotonic(), 0)):
            raise Stopped


def _read(body: str) -> Answer:
    """Returns the answer in a completion's JSON.

    The client library takes any JSON for a completion, so it is checked here. Raises ValueError.
    """
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        text, finish, usage = choice["message"]["content"], choice.get("finish_reason"), value.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"a body that is not a whole chat completion, {body[:80]!r}") from None
    texts_fit = isinstance(text, str | None) and isinstance(finish, str | None)
    if not texts_fit or not all(isinstance(count, int | None) for count in counts):
        raise ValueError(f"a chat completion with fields of the wrong types, {body[:80]!r}")
    return Answer(text or "", finish, *counts)


def _longest_answer(parameters: Mapping[str, Any]) -> int:
    """Returns the bound on an answer's tokens. Raises UserError without one, and for keys that this client sets."""
    longest = parameters.get("max_completion_tokens", parameters.get("max_tokens", 0))
    if not isinstance(longest, int) or longest < 1:
        raise UserError(
            f"endpoint.parameters has {sorted(parameters)}, expected max_tokens or max_completion_tokens of 1 or more "
            "among them: it bounds the cost of an answer."
        )
    reserved = {"model", "messages", "stream", "n"} & parameters.keys()
    if reserved:
        raise UserError(f"endpoint.parameters has {sorted(reserved)}, which this client sets itself: leave it out.")
    return longest
