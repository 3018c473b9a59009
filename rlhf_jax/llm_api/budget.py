"""The cost of questions to an endpoint, estimated and counted, and its limit."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_jax.config import NonNegative, may_change
from rlhf_jax.llm_api.cache import Answer, Message

_BYTES_A_TOKEN = 4
_TOKENS_A_MESSAGE = 4


@dataclass(frozen=True)
class SpendingConfig:
    """Prices and the limit.

    Attributes:
      prompt_price: US dollars per million tokens of questions. 0 for both prices if the endpoint costs nothing.
      answer_price: US dollars per million tokens of answers.
      limit: US dollars that all answers of a run may cost, cached ones included.
    """

    prompt_price: NonNegative = may_change()
    answer_price: NonNegative = may_change()
    limit: NonNegative = may_change()


@dataclass(frozen=True)
class Tokens:
    """Tokens of questions and of answers."""

    prompt: int
    answer: int


def estimate(messages: Sequence[Message], longest_answer: int) -> Tokens:
    """Estimates the tokens of a question, at four bytes each as in English, and of its longest answer."""
    text = sum(len(message["content"].encode()) for message in messages)
    return Tokens(math.ceil(text / _BYTES_A_TOKEN) + _TOKENS_A_MESSAGE * len(messages), longest_answer)


class Spending:
    """Counts tokens and dollars over all threads of a run.

    A question reserves its estimate before it is sent and settles it by the endpoint's count. So the questions under
    way cannot exceed the limit together.
    """

    def __init__(self, config: SpendingConfig) -> None:
        self.config = config
        self.tokens = Tokens(0, 0)
        self.uncounted = 0
        self._reserved: list[Tokens] = []
        self._settled = threading.Condition()

    def cost(self, tokens: Tokens) -> float:
        """Returns the price of tokens in US dollars."""
        return (tokens.prompt * self.config.prompt_price + tokens.answer * self.config.answer_price) / 1e6

    @property
    def is_within(self) -> bool:
        """True if the limit still allows all that is reserved."""
        with self._settled:
            return self.spent + sum(map(self.cost, self._reserved)) <= self.config.limit

    @property
    def spent(self) -> float:
        """US dollars spent so far."""
        return self.cost(self.tokens)

    def reserve(self, tokens: Tokens) -> bool:
        """Reserves the cost of a question. Waits while the questions under way may still leave enough for it.

        Returns:
          True if the limit allows it. `settle` must follow then.
        """
        with self._settled:
            while self.spent + sum(map(self.cost, self._reserved)) + self.cost(tokens) > self.config.limit:
                if not self._reserved:
                    return False
                self._settled.wait()
            self._reserved.append(tokens)
            return True

    def settle(self, reserved: Tokens, answer: Answer | None) -> None:
        """Replaces a reservation by the tokens of its answer. None: it never came."""
        with self._settled:
            self._reserved.remove(reserved)
            if answer is not None:
                self._count(answer, reserved)
            self._settled.notify_all()

    def count(self, answer: Answer, estimated: Tokens) -> None:
        """Adds an answer that was paid for earlier, or that is of no use."""
        with self._settled:
            self._count(answer, estimated)

    def _count(self, answer: Answer, estimated: Tokens) -> None:
        counted = (answer.prompt_tokens, answer.answer_tokens)
        if None in counted:
            self.uncounted += 1
            counted = (estimated.prompt, estimated.answer)
        self.tokens = Tokens(self.tokens.prompt + counted[0], self.tokens.answer + counted[1])

    def summary(self) -> dict[str, Any]:
        """Returns `{"prompt_tokens", "answer_tokens", "usd", "uncounted"}`. The last counts estimated answers."""
        return {
            "prompt_tokens": self.tokens.prompt,
            "answer_tokens": self.tokens.answer,
            "usd": round(self.spent, 6),
            "uncounted": self.uncounted,
        }

    def in_words(self, tokens: Tokens) -> str:
        """Describes tokens and their cost, for a line of output."""
        words = f"{tokens.prompt:,} prompt and {tokens.answer:,} answer tokens"
        if not self.config.prompt_price and not self.config.answer_price:
            return f"{words} (no prices given, so no cost and no limit)"
        return f"{words}, {self.cost(tokens):.4f} USD (limit {self.config.limit:g})"
