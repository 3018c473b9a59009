import json
import sqlite3
import threading
from contextlib import closing

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.cache import Answer, AnswerCache

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "é"}]}


def test_answers_outlive_the_process_that_asked(tmp_path):
    path = tmp_path / "below" / "answers.sqlite"
    answers = {"a": Answer("ja", "stop", 3, 1), "b": Answer("", None, None, None)}
    cache = AnswerCache(path)
    for key, answer in answers.items():
        cache.put(key, QUESTION, answer)
    again = AnswerCache(path)
    assert {key: again.get(key) for key in "abc"} == answers | {"c": None}
    with closing(sqlite3.connect(path)) as connection:
        [(question,)] = connection.execute("select question from answers where key = 'a'").fetchall()
    assert json.loads(question) == QUESTION


def test_the_first_answer_stays(tmp_path):
    first, second = (AnswerCache(tmp_path / "answers.sqlite") for _ in range(2))
    first.put("a", QUESTION, Answer("one", "stop", 1, 1))
    second.put("a", QUESTION, Answer("two", "stop", 2, 2))
    assert first.get("a") == second.get("a") == Answer("one", "stop", 1, 1)


def test_threads_share_a_cache(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")

    def work(name: int) -> None:
        for index in range(20):
            cache.put(f"{name}/{index}", QUESTION, Answer(f"{name} {index}", None, name, index))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{n}/{i}": Answer(f"{n} {i}", None, n, i) for n in range(4) for i in range(20)}
    assert {key: cache.get(key) for key in expected} == expected


def test_a_full_disk_is_a_sentence(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    cache.put("a", QUESTION, Answer("ja", "stop", 3, 1))
    pages = (tmp_path / "answers.sqlite").stat().st_size // 4096
    connect = sqlite3.connect

    def on_full_disk(*arguments, **named):
        connection = connect(*arguments, **named)
        connection.execute(f"pragma max_page_count = {pages}")
        return connection

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UserError, match=r"answers.sqlite cannot be written: .*full"),
    ):
        patch.setattr(sqlite3, "connect", on_full_disk)
        cache.put("b", QUESTION, Answer("x" * 100_000, "stop", 3, 1))
    assert cache.get("a") == Answer("ja", "stop", 3, 1)


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(UserError, match="answers.sqlite cannot be used .*expected an SQLite file of answers"):
        AnswerCache(path)
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("create table answers (id integer)")
    with pytest.raises(UserError, match="other.sqlite cannot be used .*no such column"):
        AnswerCache(other)
