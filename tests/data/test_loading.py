"""Batches from shards are those from records in memory, whoever reads them and wherever they begin."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2

from rlhf_jax.data import tokenise
from rlhf_jax.data.batches import Batches, Buckets, Encoding
from rlhf_jax.data.loading import Loading, load_splits, read_ahead
from rlhf_jax.data.records import FILES, Example, Preference, fingerprint, write
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.data.tokens import Split
from rlhf_jax.errors import UserError
from rlhf_jax.stages.reward import pairs_at
from tests import tiny

SPLITS = {"train": 64, "validation": 9, "id_test": 3}
BUCKETS = Buckets(prompt=(48, 64, 96), response=(8, 16, 24))
PAD = 0
LONGEST = 12  # of the responses, so that some are dropped


def preferences() -> list[Preference]:
    """Pairs with a margin, but every third."""
    return [
        Preference(e.id, e.split, e.prompt, e.response, "Nothing" + "." * (i % 9), None if i % 3 else i / 7)
        for i, e in enumerate(tiny.examples(SPLITS))
    ]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer's folder and the tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = train_tokenizer([f"{e.prompt} {e.response}" for e in tiny.examples(SPLITS)], tiny.VOCABULARY)
    trained.save_pretrained(folder)
    return str(folder), trained


@pytest.fixture(scope="module", params=[Example, Preference], ids=["examples", "preferences"])
def prepared(request, tokenizer, tmp_path_factory):
    """Of either kind of record the folder with its tokens, in shards of ten records, and the encoding."""
    folder = tmp_path_factory.mktemp("prepared")
    records = tiny.examples(SPLITS) if request.param is Example else preferences()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenise, "RECORDS_PER_SHARD", 10)
        prepare(folder, records, tokenise.Config(tokenizer[0], 60, "text", " ", num_workers=0))
    return folder, request.param, Encoding(tokenizer[1], 60, LONGEST)


def prepare(folder: Path, records: list, config: tokenise.Config) -> None:
    """What the stage `prepare` leaves."""
    write(folder / FILES[type(records[0])], records)
    splits = {split: [r for r in records if r.split == split] for split in SPLITS}
    tokenise.write(folder, splits, fingerprint(records), config)
    (folder / "corpus.json").write_text(json.dumps({"fingerprint": fingerprint(records)}))


def test_a_record_has_the_same_bytes_in_every_process(prepared):
    """The order of its features is that of their names, not that of a hash that every process draws anew."""
    for path in (prepared[0] / "tokens").glob("*.array_record*"):
        reader = ArrayRecordReader(str(path))
        for record in reader.read_all():
            assert tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True) == record
        reader.close()


def both(prepared, limit: int | None = None):
    """What a stage loads from the records in memory, and from the tokens."""
    folder, kind, encoding = prepared
    places = (str(folder / FILES[kind]), str(folder))
    return [load_splits(place, kind, encoding, ["validation", "id_test"], tiny.LOADING, limit) for place in places]


def as_stored(items):
    """Items with their margins as a shard has them, in single precision."""
    return [item._replace(margin=None if item.margin is None else float(np.float32(item.margin))) for item in items]


def assert_same_batches(left, right) -> None:
    for name in ("prompt", "prompt_mask", "response", "response_mask"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), strict=True)


@pytest.mark.parametrize("limit", [None, 4])
def test_shards_hold_what_tokenising_in_memory_gives(prepared, limit, capsys):
    in_memory, from_shards = both(prepared, limit)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == said[3:] and "dropped" in said[2] and " 0 dropped" not in said[2]
    assert list(from_shards[0]) == as_stored(in_memory[0])
    assert from_shards[1] == {split: as_stored(items) for split, items in in_memory[1].items()}
    for seed in range(2):
        batches = [Batches(train, 4, seed, BUCKETS, 0) for train in (in_memory[0], from_shards[0])]
        for position in range(0, 2 * batches[0].examples_per_epoch, 4):
            assert_same_batches(*(of.at(position) for of in batches))


@pytest.mark.parametrize("prepared", [Preference], indirect=True)
@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_begins_anywhere_and_changes_nothing(prepared, workers):
    flags.FLAGS.mark_as_parsed()  # as `main` does
    _, (train, _) = both(prepared)
    batches = Batches(train, 4, 3, BUCKETS, 0)
    start = batches.examples_per_epoch - 8  # two batches before an epoch's end
    ahead = read_ahead(batches.at, start, 4, workers)
    for step, batch in enumerate(itertools.islice(ahead, 6)):
        assert_same_batches(batch, batches.at(start + 4 * step))
    ahead.close()


def test_a_host_reads_its_own_rows_alone_and_its_batches_have_the_shapes_of_all(prepared, monkeypatch):
    _, (train, _) = both(prepared)
    own = np.array([False, True, True, False])
    batches = [Batches(train, 4, 3, BUCKETS, PAD, rows) for rows in (own, ~own, None)]
    assert len({of.fingerprint for of in batches}) == 1
    read = []
    record = Split._record
    monkeypatch.setattr(Split, "_record", lambda self, index: read.append(index) or record(self, index))
    for position in range(0, batches[0].examples_per_epoch, 4):
        *halves, whole = (pairs_at(of, position) for of in batches)
        assert len(read) == 8 and sorted(read[:4]) == sorted(read[4:])
        read.clear()
        for half, rows in zip(halves, (own, ~own), strict=True):
            np.testing.assert_array_equal(half.margin[rows], whole.margin[rows])
            for name in ("prompt", "prompt_mask", "response", "response_mask"):
                theirs, ours = (getattr(batch.sequences, name) for batch in (whole, half))
                assert ours.shape == theirs.shape
                np.testing.assert_array_equal(ours[rows], theirs[rows])
            assert (half.sequences.prompt[~rows] == PAD).all() and (half.sequences.response[~rows] == PAD).all()
            np.testing.assert_array_equal(half.sequences.prompt_mask, whole.sequences.prompt_mask)


def test_a_failure_while_reading_ahead_reaches_the_step_that_wants_the_batch():
    def batch_at(position: int) -> int:
        if position == 12:
            raise UserError("the shard is broken")
        return position

    ahead = read_ahead(batch_at, 4, 4, num_workers=0)
    assert [next(ahead), next(ahead)] == [4, 8]
    with pytest.raises(UserError, match="the shard is broken"):
        next(ahead)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_prompt": 50}, "was made with the max_prompt 60 and the run has 50, expected the same"),
        ({"tokenizer": train_tokenizer(["a b c d " * 9], 259)}, "was made with the tokenizer '"),
    ],
)
def test_tokens_made_in_another_way_are_refused(prepared, changes, message):
    folder, kind, encoding = prepared
    with pytest.raises(UserError, match=message):
        load_splits(str(folder), kind, dataclasses.replace(encoding, **changes), [], tiny.LOADING)


def test_tokens_of_other_records_than_lie_beside_them_are_refused(tokenizer, tmp_path):
    prepare(tmp_path, tiny.examples(SPLITS), tokenise.Config(tokenizer[0], 60, "text", " ", num_workers=0))
    (tmp_path / "corpus.json").write_text(json.dumps({"fingerprint": "of others"}))
    with pytest.raises(UserError, match="was made with the source '.*' and the run has 'of others'"):
        load_splits(str(tmp_path), Example, Encoding(tokenizer[1], 60, LONGEST), [], tiny.LOADING)


def test_a_folder_without_tokens_or_without_the_split_is_refused(prepared, tmp_path):
    folder, kind, encoding = prepared
    with pytest.raises(UserError, match="corpus.json does not exist, expected a folder that was prepared with tokens"):
        load_splits(str(tmp_path), kind, encoding, [], tiny.LOADING)
    (tmp_path / "corpus.json").write_text("{}")
    with pytest.raises(UserError, match="tokens/dataset_info.json does not exist"):
        load_splits(str(tmp_path), kind, encoding, [], tiny.LOADING)
    with pytest.raises(UserError, match=f"has no {kind.__name__.lower()} of the split 'ood_test'"):
        load_splits(str(folder), kind, encoding, ["ood_test"], tiny.LOADING)


@pytest.fixture
def broken(tokenizer, tmp_path, monkeypatch):
    """A folder of examples whose second training shard of seven is cut in half."""
    monkeypatch.setattr(tokenise, "RECORDS_PER_SHARD", 10)
    prepare(tmp_path, tiny.examples(SPLITS), tokenise.Config(tokenizer[0], 60, "text", " ", num_workers=0))
    shard = tmp_path / "tokens" / "rlhf_jax-train.array_record-00001-of-00007"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return tmp_path, shard


@pytest.mark.parametrize("gone", [False, True])
def test_an_unreadable_shard_is_named_and_the_rest_kept_only_if_asked(broken, tokenizer, gone, capsys):
    folder, shard = broken
    if gone:
        shard.unlink()
    encoding = Encoding(tokenizer[1], 60, 99)
    with pytest.raises(UserError, match=f"{shard} cannot be read, expected 10 records"):
        load_splits(str(folder), Example, encoding, ["validation"], tiny.LOADING)
    train, held_out = load_splits(str(folder), Example, encoding, ["validation"], Loading(0, drop_shards=True))
    assert f"{shard} cannot be read and is left out" in capsys.readouterr().out
    in_memory, _ = load_splits(str(folder / "examples.jsonl"), Example, encoding, [], tiny.LOADING)
    assert list(train) == in_memory[:10] + in_memory[20:]
    assert len(held_out["validation"]) == SPLITS["validation"]
