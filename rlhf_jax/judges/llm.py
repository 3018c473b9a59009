"""A language model behind an endpoint as the judge of two outputs, in one order or in both."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlhf_jax.config import Count, Fraction, Seed, content_of, may_change
from rlhf_jax.data.formats import TAIL
from rlhf_jax.errors import UserError
from rlhf_jax.judges.parse_answer import parse_ranking
from rlhf_jax.judges.prompt import REMINDER, load_prompt
from rlhf_jax.llm_api.batch import Question, ask_all, forget
from rlhf_jax.llm_api.budget import Spending, SpendingConfig
from rlhf_jax.llm_api.cache import Answer, AnswerCache
from rlhf_jax.llm_api.client import REFUSALS, Endpoint, EndpointConfig


@dataclass(frozen=True)
class LlmJudgeConfig:
    """Settings of a language model as the judge.

    Attributes:
      prompt: "tldr", "cnn_dailymail" (the study's), "instruction", "documentation", or the path of another prompt.
      prompts: another prompt for some splits, by the name of the split.
      order: "both": every pair is asked in both orders, and verdicts that contradict each other are a tie. "single":
        in one order, drawn from the seed and the texts.
      repeats: number of times each question is asked. With 2 or more, self-consistency is measured.
      seed: of orders.
      cache: SQLite file of answers, also of other runs. "" is `answers.sqlite` in the run's folder.
      endpoint: the model.
      spending: its prices, and the limit.
      max_unparsable: largest fraction of answers that may be unreadable, and count as ties. The run stops above it.
    """

    prompt: str = content_of("named data")
    prompts: dict[str, str] = content_of("named data")
    order: Literal["both", "single"]
    repeats: Count
    seed: Seed
    cache: str = may_change()
    endpoint: EndpointConfig
    spending: SpendingConfig
    max_unparsable: Fraction = may_change(default=0.1)


class Match(NamedTuple):
    """Two outputs to one prompt. The split chooses the judge's prompt."""

    prompt: str
    output: str
    opponent: str
    split: str = ""


class Verdict(NamedTuple):
    """The result of one question about a match.

    Attributes:
      output_first: True if the output was shown before the opponent.
      repeat: number of the repetition.
      share: win fraction of the output: 1 won, 0.5 tie, 0 lost. None: the answer could not be read.
      answer: the last answer to the question. None if nothing was asked, because the two texts differ at most in
        white space around them.
      reminded: True if the first answer could not be read.
    """

    output_first: bool
    repeat: int
    share: float | None
    answer: str | None
    reminded: bool


def match_win_fraction(verdicts: Sequence[Verdict]) -> float:
    """Returns the win fraction of the output, in [0, 1]: the mean over verdicts. An unreadable one is a tie."""
    return sum(0.5 if verdict.share is None else verdict.share for verdict in verdicts) / len(verdicts)


def check_here(config: LlmJudgeConfig) -> None:
    """Raises UserError for a setting that does not fit, a missing prompt or no key."""
    for name in (config.prompt, *config.prompts.values()):
        load_prompt(name)
    Endpoint(config.endpoint)


class LlmJudge:
    """Judges matches and stores the answers."""

    def __init__(self, config: LlmJudgeConfig, folder: Path) -> None:
        """Opens the cache. Nothing is sent yet.

        Args:
          config: settings.
          folder: contains the cache if the config names none.

        Raises:
          UserError: a setting that does not fit, a missing prompt, no key, or a cache that cannot be opened.
        """
        self._config = config
        self._prompt = load_prompt(config.prompt)
        self._prompts = {split: load_prompt(name) for split, name in config.prompts.items()}
        self._endpoint = Endpoint(config.endpoint)
        self._spending = Spending(config.spending)
        self._cache = AnswerCache(Path(config.cache) if config.cache else folder / "answers.sqlite")

    @property
    def name(self) -> str:
        """The judge's name in judgements and reports."""
        orders = "both orders" if self._config.order == "both" else "one order"
        prompts = dict.fromkeys(Path(name).stem for name in (self._config.prompt, *self._config.prompts.values()))
        return f"{self._endpoint.model} ({', '.join(prompts)}, {orders})"

    def spent(self) -> dict[str, Any]:
        """Returns `Spending.summary` of all answers that were used."""
        return self._spending.summary()

    def spent_in_words(self) -> str:
        """Describes the same for a line of output."""
        return self._spending.in_words(self._spending.tokens)

    def compare(self, matches: Sequence[Match]) -> list[list[Verdict]]:
        """Asks about every match. A question with an unreadable answer is repeated, with a reminder of the form.

        Returns:
          Per match its verdicts, one per order and repeat.

        Raises:
          UserError: more answers than `max_unparsable` could not be read, or as `ask_all`.
        """
        stripped = [Match(m.prompt.removesuffix(TAIL), m.output.strip(), m.opponent.strip(), m.split) for m in matches]
        asked = [
            (match, output_first, repeat)
            for match in dict.fromkeys(stripped)
            if match.output != match.opponent
            for output_first in self._orders(match)
            for repeat in range(self._config.repeats)
        ]
        questions = [self._question(*question) for question in asked]
        answers = self._ask(questions, "questions")
        unread = [index for index in _unreadable(answers) if answers[index].finish not in REFUSALS]
        reminders = {index: _remind(questions[index], answers[index].text) for index in unread}
        for index, answer in zip(reminders, self._ask(list(reminders.values()), "reminders"), strict=True):
            answers[index] = answer
        self._require_readable(answers, questions, reminders)
        verdicts: dict[Match, list[Verdict]] = {}
        for index, (match, output_first, repeat) in enumerate(asked):
            share = parse_ranking(answers[index].text)
            if share is not None and not output_first:
                share = 1 - share
            verdict = Verdict(output_first, repeat, share, answers[index].text, index in reminders)
            verdicts.setdefault(match, []).append(verdict)
        return [verdicts.get(match) or list(self._unasked(match)) for match in stripped]

    def _require_readable(
        self, answers: Sequence[Answer], questions: Sequence[Question], reminders: Mapping[int, Question]
    ) -> None:
        lost, allowed = _unreadable(answers), self._config.max_unparsable
        if not lost or len(lost) / len(answers) <= allowed:
            return
        # The reason may pass, and then the same questions have to be asked again.
        asked = [questions[index] for index in lost] + [reminders[index] for index in lost if index in reminders]
        forget(asked, self._endpoint, self._cache)
        first = answers[lost[0]]
        said = f"{first.text[:200]!r}" if first.text else "no text"
        raise UserError(
            f"{len(lost)} of {len(answers)} answers of {self._endpoint.model} could not be read, and "
            f"llm.max_unparsable is {allowed:g}; the first is {said} with finish_reason {first.finish!r}"
            + (", cut by the limit on its tokens in endpoint.parameters." if first.finish == "length" else ".")
        )

    def _ask(self, questions: Sequence[Question], what: str) -> list[Answer]:
        return ask_all(questions, self._endpoint, self._cache, self._spending, what) if questions else []

    def _question(self, match: Match, output_first: bool, repeat: int) -> Question:
        shown = (match.output, match.opponent) if output_first else (match.opponent, match.output)
        prompt = self._prompts.get(match.split, self._prompt)
        return Question(prompt.messages(match.prompt, *shown), repeat)

    def _orders(self, match: Match) -> tuple[bool, ...]:
        if self._config.order == "both":
            return (True, False)
        # The two texts are sorted, so that a match and its mirror image are shown in the same order.
        text = "\n".join([str(self._config.seed), match.prompt, *sorted((match.output, match.opponent))])
        smaller_first = hashlib.sha256(text.encode()).digest()[0] % 2 == 0
        return ((match.output < match.opponent) == smaller_first,)

    def _unasked(self, match: Match) -> Iterator[Verdict]:
        for output_first in self._orders(match):
            for repeat in range(self._config.repeats):
                yield Verdict(output_first, repeat, 0.5, None, False)


def _unreadable(answers: Sequence[Answer]) -> list[int]:
    return [index for index, answer in enumerate(answers) if parse_ranking(answer.text) is None]


def _remind(question: Question, answer: str) -> Question:
    # Some endpoints refuse an empty message.
    said = [{"role": "assistant", "content": answer or "(no answer)"}, {"role": "user", "content": REMINDER}]
    return Question([*question.messages, *said], question.repeat, follows=question)
