"""One question to an endpoint that speaks OpenAI's chat completions API: sent until an answer comes back whole."""

from __future__ import annotations

import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_jax.config import Count, CountOrZero, NonNegative, Positive, may_change
from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.cache import Answer, Message

LONGEST_WAIT = 60.0
"""Seconds between two attempts, at most."""

# The endpoint will never answer this question, whatever is sent again; the others can still be asked.
_REFUSALS = frozenset({"content_filter", "context_length_exceeded"})
_PASSING = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class EndpointConfig:
    """Where to ask, and how. The key is read from the environment alone and is never written anywhere.

    Attributes:
      base_url: the API's address, up to and with `/v1`; "" is OPENAI_BASE_URL, or OpenAI's own where that is not set.
      model: its name there, best with its date; "" is OPENAI_MODEL.
      key_variable: the environment variable that holds the key.
      parameters: what else each request says, as the API names it. It must bound the answer by `max_tokens` or
        `max_completion_tokens`.
      concurrency: questions asked at a time.
      requests_per_minute: attempts started a minute at most; 0 for no limit.
      timeout: seconds to wait for the connection, and then for each part of the answer.
      attempts: how often a question is sent before the run gives up.
      first_wait: seconds before the second attempt; doubled with each further one, times a random factor in [0.5, 1).
        A `Retry-After` of the endpoint counts instead where it is longer; neither is waited for longer than a minute.
    """

    base_url: str
    model: str
    key_variable: str = may_change()
    parameters: dict[str, Any]
    concurrency: Count = may_change()
    requests_per_minute: CountOrZero = may_change()
    timeout: Positive = may_change()
    attempts: Count = may_change()
    first_wait: NonNegative = may_change()


class Stopped(Exception):
    """The question was given up because another one failed for good."""


class Endpoint:
    """The client of one endpoint, for any number of threads.

    Attributes:
      model: the model's name.
      base_url: the API's address.
      stop: once set, nothing more is sent and waiting questions raise `Stopped`.
    """

    def __init__(self, config: EndpointConfig, seed: int) -> None:
        """Connects nothing yet.

        Args:
          config: where and how.
          seed: of the random factor of waits.

        Raises:
          UserError: no model, no key, an address that is none, or a setting out of its range.
        """
        import openai

        _check(config)
        self.config = config
        self.model = config.model or os.environ.get("OPENAI_MODEL", "")
        if not self.model:
            raise UserError('endpoint.model is "" and the environment has no OPENAI_MODEL, expected a model\'s name.')
        key = os.environ.get(config.key_variable)
        if not key:
            raise UserError(
                f"The environment has no {config.key_variable} (endpoint.key_variable), expected the endpoint's key; "
                "one that asks for none takes any word."
            )
        self._client = openai.OpenAI(
            api_key=key, base_url=config.base_url or None, timeout=config.timeout, max_retries=0
        )
        self.base_url = str(self._client.base_url)
        if self._client.base_url.scheme not in ("http", "https") or not self._client.base_url.host:
            raise UserError(f"The endpoint's address is {self.base_url!r}, expected one like http://localhost:8000/v1.")
        self.stop = threading.Event()
        self._seed = seed
        self._turns = _Turns(config.requests_per_minute, self.stop)

    def request(self, messages: Sequence[Message]) -> dict[str, Any]:
        """All that is sent for a question, and so all that determines its answer, but for the address."""
        return {"model": self.model, "messages": list(messages), **self.config.parameters}

    @property
    def longest_answer(self) -> int:
        """Tokens that an answer can have."""
        return _longest_answer(self.config.parameters)

    def ask(self, messages: Sequence[Message]) -> Answer:
        """Sends a question until it is answered.

        Sent again are: connections that fail or are cut, time-outs, status 408, 409, 425, 429 and 5xx, and bodies that
        are not a whole completion. A question that the endpoint refuses for its content or its length is answered by
        "" with the refusal as its `finish`.

        Raises:
          UserError: any other status (the key, the model's name, a parameter), a used-up quota, or no answer after
            all attempts.
          Stopped: `stop` was set meanwhile.
        """
        waits = random.Random(json.dumps([self._seed, list(messages)]))
        for attempt in range(self.config.attempts):
            self._turns.wait()
            outcome = self._send(messages)
            if isinstance(outcome, Answer):
                return outcome
            wait = min(self.config.first_wait * 2**attempt, LONGEST_WAIT) * waits.uniform(0.5, 1)
            wait = max(wait, min(outcome.retry_after, LONGEST_WAIT))
            if outcome.throttled:
                self._turns.hold(wait)
            elif attempt + 1 < self.config.attempts:
                self.stop.wait(wait)
        raise UserError(
            f"{self.base_url} did not answer a question in {self.config.attempts} attempts, the last one: "
            f"{outcome.reason}."
        )

    def _send(self, messages: Sequence[Message]) -> Answer | _Failure:
        import openai

        request = self.request(messages)
        try:
            # extra_body: parameters that the client does not know of are sent like those it does.
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=request["messages"], extra_body=self.config.parameters
            )
            return _read(response.text)
        except openai.APIStatusError as error:
            return self._judge_status(error)
        except openai.APIConnectionError as error:
            return _Failure(f"{error.message.rstrip('.')} ({type(error.__cause__).__name__})")

    def _judge_status(self, error: Any) -> Answer | _Failure:
        reason = f"status {error.status_code}, {' '.join(str(error.message).split())[:300].rstrip('.')}"
        if error.code in _REFUSALS:
            return Answer("", error.code, 0, 0)
        if error.code != "insufficient_quota" and (error.status_code in _PASSING or error.status_code >= 500):
            retry_after = _retry_after(error.response.headers)
            return _Failure(reason, retry_after, throttled=error.status_code == 429)
        raise UserError(f"{self.base_url} refuses questions to {self.model!r} with {reason}.")


@dataclass(frozen=True)
class _Failure:
    """Why an attempt is to be repeated, and after how many seconds at least."""

    reason: str
    retry_after: float = 0.0
    throttled: bool = False


class _Turns:
    """Starts at most so many attempts a minute, evenly spaced, and none while the endpoint asks for a pause."""

    def __init__(self, a_minute: int, stop: threading.Event) -> None:
        self._interval = 60 / a_minute if a_minute else 0.0
        self._next = time.monotonic()
        self._lock = threading.Lock()
        self._stop = stop

    def wait(self) -> None:
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        if self._stop.wait(max(turn - time.monotonic(), 0)):
            raise Stopped

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _read(body: str) -> Answer | _Failure:
    """The answer in a completion's JSON. Checked here: the client library takes any JSON for a completion."""
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        text, finish, usage = choice["message"]["content"], choice.get("finish_reason"), value.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return _Failure(f"a body that is no whole chat completion, {body[:80]!r}")
    texts_fit = isinstance(text, str | None) and isinstance(finish, str | None)
    if not texts_fit or not all(isinstance(count, int | None) for count in counts):
        return _Failure(f"a chat completion with fields of the wrong types, {body[:80]!r}")
    return Answer(text or "", finish, *counts)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the header `Retry-After` asks for, given as such or as a date; 0 where there is none."""
    value = headers.get("retry-after", "")
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _longest_answer(parameters: Mapping[str, Any]) -> int:
    return parameters.get("max_completion_tokens", parameters.get("max_tokens", 0))


def _check(config: EndpointConfig) -> None:
    least = {"concurrency": 1, "requests_per_minute": 0, "attempts": 1, "first_wait": 0}
    for name, bound in least.items():
        if getattr(config, name) < bound:
            raise UserError(f"endpoint.{name} is {getattr(config, name)}, expected {bound} or more.")
    if config.timeout <= 0:
        raise UserError(f"endpoint.timeout is {config.timeout}, expected seconds above 0.")
    longest = _longest_answer(config.parameters)
    if not isinstance(longest, int) or longest < 1:
        raise UserError(
            f"endpoint.parameters has {sorted(config.parameters)}, expected max_tokens or max_completion_tokens of 1 "
            "or more among them: it bounds what an answer costs."
        )
    taken = {"model", "messages", "stream", "n"} & config.parameters.keys()
    if taken:
        raise UserError(f"endpoint.parameters has {sorted(taken)}, which this client sets itself: leave it out.")
