"""A client for one endpoint that speaks OpenAI's chat completions API."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rlhf_jax.config import Count, CountOrZero, Parameters, Seconds, may_change
from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.cache import Answer, Message

TOO_LONG = "context_length_exceeded"
# The endpoint never answers such a question, however often it is sent. Other questions can still be asked.
REFUSALS = frozenset({"content_filter", TOO_LONG})

# How servers say that a question is too long. Only OpenAI and Azure have a code for it, and not always.
_SAYS_TOO_LONG = re.compile(
    r"maximum (context|model|prompt) length"  # OpenAI, vLLM, SGLang, Mistral, DeepSeek, OpenRouter, xAI
    r"|reduce (the length of )?(the|your) (messages|prompt|input)"  # OpenAI, vLLM, Groq
    r"|exceed[^.]*context.?(length|window|size|limit)"  # llama.cpp, Ollama, Anthropic
    r"|context.?(length|window|size|limit)[^.]*exceed"  # LiteLLM, llama.cpp with status 500
    r"|longer than [^.]*context"  # SGLang
    r"|prompt[^.]*exceed|exceed[^.]*(token limit|prompt)|range of input length"  # Moonshot, Zhipu, GitHub, DashScope
    r"|inputs\W* tokens \+ \W*max_new_tokens\W* must be|inputs\W* must have less than \d+ tokens"  # TGI
    r"|input (length|tokens?)[^.]* exceeds? the"  # SGLang, Gemini, Azure
    r"|(prompt|input|request|messages)( is| are)? too (long|large)|too large for model"  # Anthropic, Bedrock, Ollama
    r"|too many (input )?tokens"  # Cohere, Bedrock
    r"|max_\w+_len\b"  # TensorRT-LLM
    r"|context (the )?overflows",  # LM Studio
    re.IGNORECASE,
)
_CONTENT_TOO_LARGE = 413
_MAY_SAY_TOO_LONG = (400, 422, 500)

_FAILED = ("error", "abort")  # an answer's `finish` where the server, not the model, ended it
# Some servers leave the thoughts of a reasoning model in its answer, with or without the opening tag.
_THOUGHTS = re.compile(r"\A\s*<think>.*?(</think>|\Z)|\A((?!<think>).)*?</think>", re.DOTALL)
_ECHOES = ("input", "messages", "prompt")  # keys of an error that repeat the question
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
    parameters: Parameters
    concurrency: Count = may_change()
    requests_per_minute: CountOrZero = may_change()
    timeout: Annotated[Seconds, Field(gt=0)] = may_change()
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

    def ask(self, messages: Sequence[Message], discard: Callable[[Answer], None] = lambda paid: None) -> Answer:
        """Sends a question until it is answered.

        The openai client sends it again after connections that fail or are cut, time-outs, and status 408, 409, 429
        and 5xx. It waits for `Retry-After`, or for a time that doubles. Bodies without an answer that can be read
        count as attempts too. A question that the endpoint refuses for its content or its length is answered by ""
        with the refusal as its `finish`.

        Args:
          messages: the question.
          discard: called with the tokens of each completion that was made, and paid, and could not be read.

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
                if refusal := _refusal(error):
                    return Answer("", refusal, 0, 0)
                raise self._failure(f"status {error.status_code}, {_complaint(error)}") from None
            except openai.APIConnectionError as error:
                raise self._failure(f"{error.message.rstrip('.')} ({type(error.__cause__).__name__})") from None
            except _UnreadableError as error:
                if error.paid is not None:
                    discard(error.paid)
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


class _UnreadableError(Exception):
    """A body without an answer that can be read. `paid` has the tokens of the completion in it, if there is one."""

    def __init__(self, reason: str, body: str, paid: Answer | None) -> None:
        super().__init__(f"{reason}, {body[:80]!r}")
        self.paid = paid


def _read(body: str) -> Answer:
    """Returns the answer in a completion's JSON.

    The client library takes any JSON for a completion, so it is checked here.

    Raises:
      _UnreadableError: the body is not a completion, or one that the server ended by an error, or of an unknown form.
    """
    try:
        value = json.loads(body)
        choices, usage = value.get("choices"), value.get("usage")
    except (ValueError, AttributeError):
        raise _UnreadableError("a body that is not a whole chat completion", body, None) from None
    prompt_tokens = _count(usage, "prompt_tokens", "input_tokens")
    answer_tokens = _count(usage, "completion_tokens", "output_tokens")
    paid = Answer("", None, prompt_tokens, answer_tokens) if choices or usage else None
    try:
        choice = choices[0]
        finish = choice.get("finish_reason")
        text = _text(choice["message"], finish)
    except (LookupError, TypeError, AttributeError):
        raise _UnreadableError("a body that is not a whole chat completion", body, paid) from None
    if finish in _FAILED or choice.get("error"):
        raise _UnreadableError("a chat completion that failed", body, paid)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # no half of a character
    return Answer(text, finish if isinstance(finish, str | None) else str(finish), prompt_tokens, answer_tokens)


def _count(usage: Any, *names: str) -> int | None:
    found = [usage[name] for name in names if isinstance(usage, dict) and name in usage]
    return found[0] if found and isinstance(found[0], int) and found[0] >= 0 else None


def _text(message: Mapping[str, Any], finish: str | None) -> str:
    """The text of a message: its content, as a string or in parts, or else its refusal.

    The thoughts of a reasoning model are not in it, unless it came to its end and the server takes all that it said
    for thoughts. Raises TypeError or AttributeError for a content of another form.
    """
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ""
    parts = [content] if isinstance(content, str | dict) else content
    text = _THOUGHTS.sub("", "".join(part if isinstance(part, str) else _part(part) for part in parts))
    if not text and finish == "stop":
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        return thoughts if isinstance(thoughts, str) else ""
    return text


def _part(part: Mapping[str, Any]) -> str:
    text = part.get("text", part.get("refusal", ""))  # a part of thoughts has neither
    if not isinstance(text, str):
        raise TypeError(f"a part's text is {text!r}")
    return text


def _refusal(error: Any) -> str | None:
    """The member of `REFUSALS` that a status error of the openai client stands for."""
    if (code := str(error.code)) in REFUSALS:
        return code
    status = error.status_code
    says_so = status in _MAY_SAY_TOO_LONG and _SAYS_TOO_LONG.search(_complaint(error))
    return TOO_LONG if says_so or status == _CONTENT_TOO_LARGE else None


def _complaint(error: Any) -> str:
    """What the server says in the body of a status error, whatever its form, without the question."""
    return " ".join(_strings(error.body)) or error.message


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _ECHOES:
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _longest_answer(parameters: Mapping[str, Any]) -> int:
    """Returns the bound on an answer's tokens. Raises UserError without one, and for keys that this client sets."""
    longest = parameters.get("max_completion_tokens", parameters.get("max_tokens", 0))
    if type(longest) is not int or longest < 1:  # a bool is an int too
        raise UserError(
            f"endpoint.parameters has {sorted(parameters)}, expected max_tokens or max_completion_tokens of 1 or more "
            "among them: it bounds the cost of an answer."
        )
    reserved = {"model", "messages", "stream", "n"} & parameters.keys()
    if reserved:
        raise UserError(f"endpoint.parameters has {sorted(reserved)}, which this client sets itself: leave it out.")
    return longest
