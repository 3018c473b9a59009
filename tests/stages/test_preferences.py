import dataclasses

import numpy as np
import pytest

from rlhf_jax.data.formats import docstring_prompt
from rlhf_jax.data.records import Preference, Samples, read, write
from rlhf_jax.errors import UserError
from rlhf_jax.judges.gold import GoldConfig, make_scorer
from rlhf_jax.stages import preferences
from tests import tiny

GOLD = GoldConfig("lexical")
WORDS = ["rotate", "picture", "angle", "corner", "zeros", "mirror", "scale", "filter", "border", "shift"]
TEXT = "rotate rotate rotate picture picture angle corner zeros"


def sample(id: str, outputs: list[str]) -> Samples:
    return tiny.samples(id, outputs, split="train", prompt=docstring_prompt("scipy", id, TEXT))


def samples(count: int, n: int = 4) -> list[Samples]:
    rng = np.random.default_rng(0)
    return [sample(f"p{i}", [" ".join(rng.choice(WORDS, 4)) for _ in range(n)]) for i in range(count)]


def labelled(folder, records: list[Samples], noise=0.0, pairs=2, seed=0) -> list[Preference]:
    write(folder / "samples.jsonl", records)
    config = preferences.Config("preferences", str(folder / "samples.jsonl"), GOLD, noise, pairs, seed)
    preferences.run(config, folder / "out")
    result = read(folder / "out/preferences.jsonl", Preference)
    (folder / "out/preferences.jsonl").unlink()
    return result


def score(text: str) -> float:
    return make_scorer(GOLD)([TEXT], [text])[0]


def test_without_noise_the_gold_scorer_decides(tmp_path):
    records = {record.id: record for record in samples(20)}
    pairs = labelled(tmp_path, list(records.values()))
    assert len(pairs) == 40
    for pair in pairs:
        record = records[pair.id.partition("/")[0]]
        assert {pair.chosen, pair.rejected} <= set(record.outputs)
        assert (pair.split, pair.prompt) == (record.split, record.prompt)
        assert pair.margin == pytest.approx(score(pair.chosen) - score(pair.rejected))
        assert pair.margin > 0


def test_noise_flips_its_share_of_the_same_pairs(tmp_path, capsys):
    clean, noisy = (labelled(tmp_path, samples(300), noise=noise) for noise in (0.0, 0.25))
    flipped = [(b.chosen, b.rejected) == (a.rejected, a.chosen) for a, b in zip(clean, noisy, strict=True)]
    kept = [(b.chosen, b.rejected) == (a.chosen, a.rejected) for a, b in zip(clean, noisy, strict=True)]
    assert np.logical_xor(flipped, kept).all()
    assert [a.margin for a in clean] == [b.margin for b in noisy]
    assert np.mean(flipped) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / len(clean)))
    assert f"{sum(flipped)} labels flipped" in capsys.readouterr().out


def test_all_noise_flips_all(tmp_path):
    assert all(score(pair.chosen) < score(pair.rejected) for pair in labelled(tmp_path, samples(5), noise=1.0))


def test_pairs_depend_on_the_seed_and_the_prompt_alone(tmp_path):
    records = samples(12)
    pairs = labelled(tmp_path, records, noise=0.3)
    assert labelled(tmp_path, records, noise=0.3) == pairs
    assert sorted(labelled(tmp_path, records[::-1], noise=0.3), key=lambda p: p.id) == sorted(pairs, key=lambda p: p.id)
    assert labelled(tmp_path, records[:5], noise=0.3) == [p for p in pairs if int(p.id[1:].partition("/")[0]) < 5]
    assert labelled(tmp_path, records, noise=0.3, seed=1) != pairs


def test_no_pair_is_labelled_twice(tmp_path):
    pairs = labelled(tmp_path, [sample("a", ["rotate", "picture", "angle mirror", "scale", "scale"])], pairs=100)
    assert len({frozenset((pair.chosen, pair.rejected)) for pair in pairs}) == len(pairs) == 6


def test_equal_texts_and_ties_are_skipped_and_counted(tmp_path, capsys):
    records = [sample("a", ["rotate", "rotate", "mirror", "scale"]), sample("b", ["angle"] * 3)]
    pairs = labelled(tmp_path, records, pairs=10)
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {("rotate", "mirror"), ("rotate", "scale")}
    printed = capsys.readouterr().out
    assert "2 pairs on 1 of 2 prompts" in printed
    assert "skipped 3 repeated outputs and 1 ties" in printed


def test_pairs_are_drawn_from_all_of_them(tmp_path):
    """Not the best against the worst: over many prompts every pair of ranks turns up."""
    outputs = ["rotate picture angle", "rotate picture", "picture", "mirror"]
    pairs = labelled(tmp_path, [sample(f"p{i}", outputs) for i in range(120)], pairs=1)
    counts = [sum(pair.rejected == output for pair in pairs) for output in outputs]
    ranks = sorted(outputs, key=score, reverse=True)
    assert [counts[outputs.index(output)] for output in ranks] == pytest.approx([0, 20, 40, 60], abs=18)


def test_a_finished_stage_is_left_alone(tmp_path, capsys):
    write(tmp_path / "samples.jsonl", samples(3))
    config = preferences.Config("preferences", str(tmp_path / "samples.jsonl"), GOLD, 0.0, 1, 0)
    preferences.run(config, tmp_path)
    before = (tmp_path / "preferences.jsonl").read_bytes()
    preferences.run(dataclasses.replace(config, seed=5), tmp_path)
    assert "complete" in capsys.readouterr().out
    assert (tmp_path / "preferences.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "has no samples"),
        ([sample("a", ["one"])], '"a" has one output'),
        ([sample("a", ["one", "one"])], "no pair could be labelled"),
    ],
)
def test_bad_input_is_refused(tmp_path, records, message):
    with pytest.raises(UserError, match=message):
        labelled(tmp_path, records)
    assert not (tmp_path / "out").exists()
