"""An SQLite file of answers. A question is paid for once, however often a run is killed."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.files import room

type Message = dict[str, str]
"""`{"role", "content"}` of the chat completions API."""

_TABLES = (
    "create table if not exists answers "
    "(key text primary key, question text, text text, finish text, prompt_tokens integer, answer_tokens integer)",
    "create table if not exists discarded (key text, prompt_tokens integer, answer_tokens integer)",
)
_COLUMNS = "key, question, text, finish, prompt_tokens, answer_tokens"
_LOCKED_SECONDS = 60


class Answer(NamedTuple):
    """The endpoint's answer to one question.

    Attributes:
      text: the answer, "" if the model said nothing.
      finish: why it ended, as the endpoint names it. None if it does not.
      prompt_tokens: tokens of the question. None if the endpoint does not count.
      answer_tokens: tokens of the answer. None if the endpoint does not count.
    """

    text: str
    finish: str | None
    prompt_tokens: int | None
    answer_tokens: int | None


class AnswerCache:
    """Answers by key, on disk as soon as `put` returns. Threads and processes may use the same file.

    Of an answer that was paid for and is of no use, only its tokens are kept.
    """

    def __init__(self, path: Path) -> None:
        """Creates the file if it does not exist.

        Raises:
          UserError: the file cannot be opened or is not such a cache.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for table in _TABLES:
                self._execute(table)
            self._execute(f"select {_COLUMNS} from answers limit 0")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path} cannot be used ({error}), expected an SQLite file of answers or none.") from None

    def get(self, key: str) -> Answer | None:
        """Returns the answer to a question, or None."""
        rows = self._execute(f"select {_COLUMNS} from answers where key = ?", (key,))
        return Answer(*rows[0][2:]) if rows else None

    def put(self, key: str, question: Any, answer: Answer) -> None:
        """Stores an answer and its question as JSON. If another process was faster, its answer stays."""
        row = (key, json.dumps(question, sort_keys=True), *answer)
        self._execute(f"insert or ignore into answers ({_COLUMNS}) values (?, ?, ?, ?, ?, ?)", row)

    def discard(self, account: str, answer: Answer) -> None:
        """Stores what an answer of no use took, under a key."""
        row = (account, answer.prompt_tokens, answer.answer_tokens)
        self._execute("insert into discarded (key, prompt_tokens, answer_tokens) values (?, ?, ?)", row)

    def forget(self, key: str, account: str) -> None:
        """Discards a stored answer, if there is one."""
        answer = self.get(key)
        if answer is not None:
            self.discard(account, answer)
            self._execute("delete from answers where key = ?", (key,))

    def discarded(self) -> list[tuple[str, Answer]]:
        """Returns what was discarded, as answers of no text, each with its key."""
        rows = self._execute("select key, prompt_tokens, answer_tokens from discarded")
        return [(key, Answer("", None, *counts)) for key, *counts in rows]

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        # A connection belongs to one thread, and opening one takes less time than writing an answer.
        with room(self.path), closing(sqlite3.connect(self.path, timeout=_LOCKED_SECONDS)) as connection, connection:
            return connection.execute(statement, values).fetchall()
