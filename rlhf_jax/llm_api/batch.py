"""Many questions to an endpoint. Each is asked and paid once, and the answers are stored as they come."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.budget import Spending, Tokens, estimate
from rlhf_jax.llm_api.cache import Answer, AnswerCache, Message
from rlhf_jax.llm_api.client import REFUSALS, Endpoint


@dataclass(frozen=True)
class Question:
    """Messages to a model.

    Attributes:
      messages: the conversation so far.
      repeat: number of the repetition. The same question with another number is asked anew.
      follows: an earlier question that this one repeats in other words, if it does. What is paid for nothing counts in
        every run that asks the earlier one.
    """

    messages: Sequence[Message]
    repeat: int = 0
    follows: "Question | None" = None


def ask_all(
    questions: Sequence[Question], endpoint: Endpoint, cache: AnswerCache, spending: Spending, what: str
) -> list[Answer]:
    """Answers questions, in their order, from the cache or the endpoint.

    Equal questions are asked once. Before the first is sent, a line says how many there are and the most that they
    can cost. Every answer is in the cache before the next is waited for. So a run that is killed loses only the
    questions under way, and continues when it is started again. An empty answer is stored only if its `finish` says
    that it would be empty again: cut by its length, or refused.

    Args:
      questions: messages, and which repetition.
      endpoint: the client to ask.
      cache: the stored answers.
      spending: adds up the cost of all answers, those from the cache and those of no use included.
      what: the name of the questions in that line.

    Raises:
      UserError: the limit does not allow the next question, or the endpoint gave up on one.
    """
    keys = [_key(question, endpoint) for question in questions]
    unique = dict(zip(keys, questions, strict=True))
    estimates = {key: estimate(question.messages, endpoint.longest_answer) for key, question in unique.items()}
    answers = {key: answer for key in unique if (answer := cache.get(key)) is not None}
    lost = [(key, answer) for key, answer in cache.discarded() if key in unique]
    for key, answer in [*answers.items(), *lost]:
        spending.count(answer, estimates[key])
    missing = [key for key in unique if key not in answers]
    _announce(what, len(unique), [estimates[key] for key in missing], endpoint, spending)

    def require(allowed: bool) -> None:
        if not allowed:
            raise UserError(
                f"The next question to {endpoint.model} could pass spending.limit, {spending.config.limit:g} USD of "
                f"which {spending.spent:.4f} are spent; all answers so far are in {cache.path}: raise it to go on."
            )

    def ask(key: str) -> Answer:
        account = _account(unique[key], endpoint)

        def discard(paid: Answer) -> None:
            cache.discard(account, paid)
            spending.count(paid, estimates[key])
            require(spending.is_within)

        require(spending.reserve(estimates[key]))
        answer = None
        try:
            answer = endpoint.ask(unique[key].messages, discard)
            if answer.text or answer.finish in (*REFUSALS, "length"):
                cache.put(key, _identity(unique[key], endpoint), answer)
            else:
                cache.discard(account, answer)
        finally:
            spending.settle(estimates[key], answer)
        return answer

    with ThreadPoolExecutor(endpoint.config.concurrency) as pool:
        futures = {pool.submit(ask, key): key for key in missing}
        try:
            for future in as_completed(futures):
                answers[futures[future]] = future.result()
        except BaseException:
            # Questions under way are paid for. They finish, and their answers are stored.
            endpoint.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [answers[key] for key in keys]


def forget(questions: Sequence[Question], endpoint: Endpoint, cache: AnswerCache) -> None:
    """Removes the answers to questions from the cache, so that they are asked again. What they cost stays counted."""
    for question in questions:
        cache.forget(_key(question, endpoint), _account(question, endpoint))


def _identity(question: Question, endpoint: Endpoint) -> dict[str, Any]:
    """Returns everything that determines an answer."""
    return {"endpoint": endpoint.base_url, "repeat": question.repeat, **endpoint.request(question.messages)}


def _account(question: Question, endpoint: Endpoint) -> str:
    """Returns the key under which what is paid for nothing is stored."""
    return _key(question.follows or question, endpoint)


def _key(question: Question, endpoint: Endpoint) -> str:
    return hashlib.sha256(json.dumps(_identity(question, endpoint), sort_keys=True).encode()).hexdigest()


def _announce(what: str, total: int, estimates: Sequence[Tokens], endpoint: Endpoint, spending: Spending) -> None:
    tokens = Tokens(sum(tokens.prompt for tokens in estimates), sum(tokens.answer for tokens in estimates))
    line = f"{endpoint.model}: {total:,} {what}, {total - len(estimates):,} of them answered before"
    if estimates:
        line += f"; the other {len(estimates):,} may take {spending.in_words(tokens)}"
    print(f"{line}.", flush=True)
