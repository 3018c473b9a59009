import dataclasses
import json

import pytest

from rlhf_jax.data.formats import docstring_prompt
from rlhf_jax.errors import UserError
from rlhf_jax.judges.llm import LlmJudge, Match, Verdict, match_win_fraction
from rlhf_jax.judges.prompt import REMINDER
from tests.chat_server import completion, judge_config, prefers_first, prefers_longer, ranking, serving, shown

PROMPT = docstring_prompt("scipy", "rotate", "Rotates the picture.")
TEXTS = ["a", "bb", " bb\n", "ccc", "dddd", ""]
MATCHES = [Match(PROMPT, one, other) for one in TEXTS for other in TEXTS]


def answers(server, folder, matches=MATCHES, **changes) -> list[list[Verdict]]:
    return LlmJudge(judge_config(server, **changes), folder).compare(matches)


def expected_share(match: Match) -> float:
    one, other = (len(text.strip()) for text in (match.output, match.opponent))
    return (1 + (one > other) - (one < other)) / 2


@pytest.mark.parametrize("changes", [{"order": "both"}, {"order": "single"}, {"order": "single", "seed": 1}])
def test_for_a_judge_that_is_blind_to_order_the_order_does_not_matter(tmp_path, changes):
    with serving(prefers_longer) as server:
        verdicts = answers(server, tmp_path, **changes)
    assert [match_win_fraction(match) for match in verdicts] == [expected_share(match) for match in MATCHES]


def test_a_judge_that_sees_only_order_makes_ties_of_both(tmp_path):
    with serving(prefers_first) as server:
        verdicts = answers(server, tmp_path)
    assert {match_win_fraction(match) for match in verdicts} == {0.5}


def test_a_single_order_is_drawn_from_seed_and_texts_and_mirrors(tmp_path):
    matches = [Match(PROMPT, f"one {index}", f"other {index}") for index in range(64)]
    mirrored = [Match(match.prompt, match.opponent, match.output) for match in matches]
    with serving(prefers_first) as server:
        first, again, other_seed = (
            [verdict.output_first for [verdict] in answers(server, tmp_path, matches, order="single", seed=seed)]
            for seed in (0, 0, 1)
        )
        backwards = [verdict.output_first for [verdict] in answers(server, tmp_path, mirrored, order="single")]
    assert first == again != other_seed
    assert 16 <= sum(first) <= 48
    assert backwards == [not shown_first for shown_first in first]


def test_equal_texts_are_a_tie_and_equal_matches_one_question(tmp_path):
    with serving(prefers_longer) as server:
        verdicts = answers(server, tmp_path, [Match(PROMPT, " a", "a\n"), *[Match(PROMPT, "a", "bb")] * 3])
    assert verdicts[0] == [Verdict(True, 0, 0.5, None, False), Verdict(False, 0, 0.5, None, False)]
    assert verdicts[1] == verdicts[2] == verdicts[3]
    assert len(server.requests) == 2
    assert sorted(shown(request["messages"]) for request in server.requests) == [("a", "bb"), ("bb", "a")]
    assert all("TL;DR" not in request["messages"][1]["content"] for request in server.requests)


def test_a_split_may_have_a_prompt_of_its_own(tmp_path):
    matches = [Match(PROMPT, "a", "bb", "id_test"), Match(PROMPT, "a", "bb", "ood_test")]
    changes = {"prompt": "tldr", "prompts": {"ood_test": "cnn_dailymail"}, "order": "single"}
    with serving(prefers_longer) as server:
        judge = LlmJudge(judge_config(server, **changes), tmp_path)
        judge.compare(matches)
    assert judge.name == "judge-1 (tldr, cnn_dailymail, one order)"
    asked = [request["messages"][1]["content"] for request in server.requests]
    assert sorted("given forum post" in question for question in asked) == [False, True]
    assert sorted("given news article" in question for question in asked) == [False, True]


def test_an_unreadable_answer_is_asked_once_more_and_then_recorded_as_such(tmp_path):
    def answer(messages):
        first, second = shown(messages)
        again = messages[-1]["content"] == REMINDER
        if "mute" in (first, second):
            return "" if not again else "Ich kann das nicht entscheiden."
        return ranking(1, 2) if again else "The first one, I would say."

    matches = [Match(PROMPT, "talks", "other"), Match(PROMPT, "mute", "other")]
    with serving(answer) as server:
        verdicts = answers(server, tmp_path, matches, max_unparsable=0.5)
    talks, mute = verdicts
    assert [(verdict.share, verdict.reminded) for verdict in talks] == [(1.0, True), (0.0, True)]
    assert [verdict.share for verdict in mute] == [None, None]
    assert mute[0].answer == "Ich kann das nicht entscheiden."
    assert match_win_fraction(mute) == 0.5
    assert len(server.requests) == 8, "each of four questions twice, none a third time"
    said = [message["content"] for message in server.requests[-1]["messages"][2:]]
    assert said[1] == REMINDER and said[0] in ("(no answer)", "The first one, I would say.")


def test_a_reminder_is_paid_and_cached_like_any_question(tmp_path):
    with serving(lambda messages: "neither") as server:
        config = judge_config(server, max_unparsable=1.0)
        judge = LlmJudge(config, tmp_path)
        verdicts = judge.compare(MATCHES[:2])
        again = LlmJudge(config, tmp_path)
        assert again.compare(MATCHES[:2]) == verdicts
    assert len(server.requests) == 4
    assert again.spent() == judge.spent()
    assert judge.spent()["prompt_tokens"] == 400


@pytest.mark.parametrize(
    ("message", "finish", "said"),
    [
        ({"content": None, "reasoning_content": "Let me see"}, "length", "no text with finish_reason 'length', cut by"),
        ({"content": ""}, "stop", "no text with finish_reason 'stop'"),
        ({"content": "Service unavailable"}, "stop", "'Service unavailable' with finish_reason 'stop'"),
        ({"content": None, "refusal": "I cannot judge."}, "stop", "'I cannot judge.'"),
    ],
)
def test_a_judge_that_answers_nothing_ends_the_run_with_an_example_and_is_asked_anew(tmp_path, message, finish, said):
    matches = [Match(PROMPT, f"one {index}", f"the other {index}") for index in range(3)]
    with serving(prefers_longer, lambda messages, attempt: (200, completion(message, finish))) as server:
        config = judge_config(server)
        judge = LlmJudge(config, tmp_path)
        with pytest.raises(
            UserError, match=f"6 of 6 answers of judge-1 could not be read, .* 0.1; the first is {said}"
        ):
            judge.compare(matches)
        paid = judge.spent()
        server.trouble = lambda messages, attempt: None
        again = LlmJudge(config, tmp_path)
        assert [match_win_fraction(match) for match in again.compare(matches)] == [0.0] * 3
    assert paid["usd"] == pytest.approx(12 * (100 * 10 + 10 * 20) / 1e6)
    assert again.spent()["usd"] == pytest.approx(paid["usd"] * 1.5), "the first run's answers were paid too"


def test_only_what_could_not_be_read_is_asked_anew(tmp_path):
    """One match of ten is refused for its length: within the limit a tie, beyond it the end of the run."""
    matches = [Match(PROMPT, f"one {index}", f"the other {index}") for index in range(10)]
    too_long = (400, {"object": "error", "message": "This model's maximum context length is 9 tokens.", "code": 400})

    def trouble(messages, attempt):
        return too_long if "one 3" in messages[1]["content"] else None

    with serving(prefers_longer, trouble) as server:
        with pytest.raises(
            UserError, match="2 of 20 answers .* 0.05; the first is no text .*'context_length_exceeded'"
        ):
            answers(server, tmp_path, matches, max_unparsable=0.05)
        assert len(server.requests) == 20, "no reminder to a refusal"
        verdicts = answers(server, tmp_path, matches, max_unparsable=0.1)
        assert len(server.requests) == 22
    assert [match_win_fraction(match) for match in verdicts] == [0.5 if index == 3 else 0.0 for index in range(10)]


def test_repeats_are_asked_anew(tmp_path):
    with serving(prefers_longer) as server:
        [match] = answers(server, tmp_path, MATCHES[1:2], repeats=3)
    assert len(server.requests) == 6
    assert sorted((verdict.output_first, verdict.repeat) for verdict in match) == [
        (first, repeat) for first in (False, True) for repeat in range(3)
    ]


def test_runs_may_share_a_cache(tmp_path):
    with serving(prefers_longer) as server:
        for folder in ("one", "two"):
            answers(server, tmp_path / folder, MATCHES[:2], cache=str(tmp_path / "shared.sqlite"))
    assert len(server.requests) == 2


def test_name_and_bad_settings(tmp_path):
    with serving() as server:
        config = judge_config(server)
        assert LlmJudge(config, tmp_path).name == "judge-1 (documentation, both orders)"
        with pytest.raises(UserError, match="prompt 'none' does not exist"):
            LlmJudge(dataclasses.replace(config, prompt="none"), tmp_path)
    assert "secret" not in json.dumps(dataclasses.asdict(config))
