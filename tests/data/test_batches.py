import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers

from rlhf_jax.data.batches import (
    Batches,
    Buckets,
    Encoding,
    Item,
    collate,
    from_examples,
    from_preferences,
    from_prompts,
    in_order,
    real_tokens,
)
from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.tokenizer import decode, encode_prompt, train_tokenizer
from rlhf_jax.errors import UserError

PAD = 0
BUCKETS = Buckets(prompt=(4, 8, 16), response=(2, 6))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b c d e f " * 9], 259)


def make_items(count: int, samples: int = 1) -> list[Item]:
    """Items whose first prompt token names them, of pseudo-random lengths."""
    random = np.random.default_rng(0)
    return [
        Item([number + 1] + [7] * random.integers(0, 16), [[9] * random.integers(1, 7) for _ in range(samples)])
        for number in range(count)
    ]


def rows(batch) -> list[tuple[list[int], list[list[int]]]]:
    """Undoes the padding by the masks."""
    return [
        Item(
            batch.prompt[row][batch.prompt_mask[row]].tolist(),
            [ids[mask].tolist() for ids, mask in zip(batch.response[row], batch.response_mask[row], strict=True)],
        )
        for row in range(len(batch.prompt))
    ]


def names(batch) -> list[int]:
    return batch.prompt[:, 0].tolist()


@given(
    lengths=st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(0, 4), min_size=2, max_size=2)), min_size=1),
    extra=st.integers(0, 3),
)
def test_collate_only_pads_on_the_right(lengths, extra):
    items = [Item([5] * prompt, [[6] * response for response in responses]) for prompt, responses in lengths]
    batch = collate(items, 6 + extra, 4 + extra, PAD)
    assert rows(batch) == items
    assert batch.prompt.shape == (len(items), 6 + extra) and batch.response.shape == (len(items), 2, 4 + extra)
    assert (batch.prompt.dtype, batch.response.dtype) == (np.int32, np.int32)
    for ids, mask in ((batch.prompt, batch.prompt_mask), (batch.response, batch.response_mask)):
        assert mask.dtype == bool
        assert (np.diff(mask.astype(int), axis=-1) <= 0).all()
        assert (ids[~mask] == PAD).all()


def test_examples_become_items_and_long_responses_are_dropped(tokenizer):
    examples = [Example(str(number), "train", "prompt", "r" * number) for number in (1, 9, 2)]
    items, dropped = from_examples(Encoding(tokenizer, max_prompt=50, max_response=5), examples)
    assert dropped == 1
    assert [[decode(tokenizer, ids) for ids in item.responses] for item in items] == [["r"], ["rr"]]
    assert all(item.prompt == encode_prompt(tokenizer, "prompt", 50) for item in items)
    assert [item.prompt for item in from_prompts(examples, tokenizer, 50)] == [items[0].prompt] * 3
    assert len(from_examples(Encoding(tokenizer, 50, 4), examples)[0]) == 2  # space, "rr" and EOS just fit
    assert len(from_examples(Encoding(tokenizer, 50, 3), examples)[0]) == 1
    with pytest.raises(UserError, match="All 3 responses are longer than 2 tokens"):
        from_examples(Encoding(tokenizer, 50, 2), examples)
    with pytest.raises(UserError, match="'9' has a response of 11 tokens, expected at most 5"):
        from_examples(Encoding(tokenizer, 50, 5, long_responses="error"), examples)


def test_preferences_put_the_chosen_response_first(tokenizer):
    pairs = [Preference("a", "train", "p", "good", "bad", 1.5), Preference("b", "train", "p", "x" * 30, "bad")]
    items, dropped = from_preferences(Encoding(tokenizer, max_prompt=20, max_response=10), pairs)
    assert dropped == 1
    assert [decode(tokenizer, ids) for ids in items[0].responses] == ["good", "bad"]
    assert items[0].margin == 1.5
    lower = tokenizers.Tokenizer(models.BPE({"x": 0, " ": 1, "p": 2, "</s>": 3}, []))
    lower.normalizer = normalizers.Lowercase()
    lower = transformers.PreTrainedTokenizerFast(tokenizer_object=lower, eos_token="</s>")
    with pytest.raises(UserError, match="'c' has the same tokens twice"):
        from_preferences(Encoding(lower, 20, 10), [Preference("c", "train", "p", "x", "X")])


@pytest.mark.parametrize("count", [8, 9, 301])
def test_an_epoch_has_each_example_at_most_once_and_all_but_the_last_few(count):
    items = make_items(count)
    batches = Batches(items, 4, seed=3, buckets=BUCKETS, pad_id=PAD)
    assert batches.examples_per_epoch == count - count % 4
    epochs = []
    for epoch in range(2):
        start = epoch * batches.examples_per_epoch
        seen = [batches.at(start + position) for position in range(0, batches.examples_per_epoch, 4)]
        epochs.append([name for batch in seen for name in names(batch)])
        assert len(set(epochs[-1])) == len(epochs[-1]) == batches.examples_per_epoch
        for batch in seen:
            assert rows(batch) == [items[name - 1] for name in names(batch)]
            assert real_tokens(batch) == sum(len(item.prompt) + len(item.responses[0]) for item in rows(batch))
    assert epochs[0] != epochs[1]


def test_a_batch_is_a_pure_function_of_seed_and_position():
    items = make_items(40)
    ordered = Batches(items, 4, 3, BUCKETS, PAD)
    positions = range(0, 160, 4)
    expected = {position: ordered.at(position) for position in positions}
    for position in reversed(positions):
        fresh = Batches(items, 4, 3, BUCKETS, PAD).at(position)
        assert rows(fresh) == ordered.items_at(position)
        for name in ("prompt", "prompt_mask", "response", "response_mask"):
            np.testing.assert_array_equal(getattr(fresh, name), getattr(expected[position], name))
    other = Batches(items, 4, 4, BUCKETS, PAD)
    assert any(names(other.at(position)) != names(expected[position]) for position in positions)


def test_bad_batches_are_refused():
    items = make_items(5)
    with pytest.raises(UserError, match="There are 5 examples, expected at least one batch of 8"):
        Batches(items, 8, 0, BUCKETS, PAD)
    with pytest.raises(UserError, match="A prompt has 17 tokens, expected at most 16"):
        Batches([*items, Item([1] * 17, [[1]])], 2, 0, BUCKETS, PAD)
    with pytest.raises(UserError, match="A response has 7 tokens, expected at most 6"):
        Batches([*items, Item([1], [[1] * 7])], 2, 0, BUCKETS, PAD)
    with pytest.raises(ValueError, match="no multiple"):
        Batches(items, 2, 0, BUCKETS, PAD).at(3)


@settings(max_examples=30)
@given(count=st.integers(0, 20), batch_size=st.integers(1, 7))
def test_in_order_counts_every_item_once(count, batch_size):
    items = make_items(count, samples=2)
    seen = []
    for batch, real in in_order(items, batch_size, BUCKETS, PAD):
        assert len(batch.prompt) == batch_size and batch.prompt_mask.any(axis=1).all()
        assert not batch.response_mask[real:].any()
        seen += rows(batch)[:real]
    assert seen == items


def test_prompts_alone_batch_without_responses():
    items = [Item(item.prompt, []) for item in make_items(8)]
    buckets = Buckets(BUCKETS.prompt, (0,))
    for own in (None, np.arange(4) == 2):
        assert Batches(items, 4, 0, buckets, PAD, own).at(4).response.shape == (4, 0, 0)
    assert [real for _, real in in_order(items, 5, buckets, PAD)] == [5, 3]
