"""What questions to an endpoint cost, before and after they are asked, and the limit that nothing passes."""

from __future__ import annotations

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
      prompt_price: US dollars for a million tokens of questions; 0 for both prices where the endpoint costs nothing.
      answer_price: US dollars for a million tokens of answers.
      limit: US dollars that all answers of a run may have cost, those that a cache holds included.
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
    """Tokens of a question at four bytes each, which suits English, and of the longest answer to it."""
    text = sum(len(message["content"].encode()) for message in messages)
    return Tokens(math.ceil(text / _BYTES_A_TOKEN) + _TOKENS_A_MESSAGE * len(messages), longest_answer)


class Spending:
    """Counts tokens and dollars over all threads of a run.

    A question reserves its estimate before it is sent and settles it by what the endpoint counted, so questions under
    way cannot pass the limit together.
    """

    def __init__(self, config: SpendingConfig) -> None:
        self.config = config
        self.tokens = Tokens(0, 0)
        self.uncounted = 0
        self._reserved: list[Tokens] = []
        self._settled = threading.Condition()

    def cost(self, tokens: Tokens) -> float:
        """US dollars for so many tokens."""
        return (tokens.prompt * self.config.prompt_price + tokens.answer * self.config.answer_price) / 1e6

    @property
    def spent(self) -> float:
        """US dollars so far."""
        return self.cost(self.tokens)

    def reserve(self, tokens: Tokens) -> bool:
        """Sets the cost of a question aside; waits while others that are under way might still leave enough for it.

        Returns:
          Whether the limit allows it. If so, `settle` has to follow.
        """
        with self._settled:
            while self.spent + sum(map(self.cost, self._reserved)) + self.cost(tokens) > self.config.limit:
                if not self._reserved:
                    return False
                self._settled.wait()
            self._reserved.append(tokens)
            return True

    def settle(self, reserved: Tokens, answer: Answer | None) -> None:
        """Puts what an answer took in the place of its reservation; None: it never came."""
        with self._settled:
            self._reserved.remove(reserved)
            if answer is not None:
                self._count(answer, reserved)
            self._settled.notify_all()

    def count(self, answer: Answer, estimated: Tokens) -> None:
        """Adds an answer that was paid earlier."""
        with self._settled:
            self._count(answer, estimated)

    def _count(self, answer: Answer, estimated: Tokens) -> None:
        counted = (answer.prompt_tokens, answer.answer_tokens)
        if None in counted:
            self.uncounted += 1
            counted = (estimated.prompt, estimated.answer)
        self.tokens = Tokens(self.tokens.prompt + counted[0], self.tokens.answer + counted[1])

    def summary(self) -> dict[str, Any]:
        """`{"prompt_tokens", "answer_tokens", "usd", "uncounted"}`; the last, answers whose tokens are estimates."""
        return {
            "prompt_tokens": self.tokens.prompt,
            "answer_tokens": self.tokens.answer,
            "usd": round(self.spent, 6),
            "uncounted": self.uncounted,
        }

    def in_words(self, tokens: Tokens) -> str:
        """Tokens and their cost, for a line of output."""
        words = f"{tokens.prompt:,} prompt and {tokens.answer:,} answer tokens"
        if not self.config.prompt_price and not self.config.answer_price:
            return f"{words} (no prices given, so no cost and no limit)"
        return f"{words}, {self.cost(tokens):.4f} USD (limit {self.config.limit:g})"
