"""The border between prompt and response, with lengths that differ and masks that are carried."""

import numpy as np

from rlhf_jax.models.sequences import Sequences

EOS = 9


def make() -> Sequences:
    """Three prompts of 3, 1 and 4 tokens with two responses each. The pad id is the EOS id."""
    return Sequences(
        prompt=np.array([[5, 6, 7, EOS], [8, EOS, EOS, EOS], [1, EOS, 3, 4]], np.int32),
        prompt_mask=np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool),
        response=np.array(
            [[[2, EOS, EOS], [2, 3, 4]], [[EOS, EOS, EOS], [1, EOS, EOS]], [[EOS] * 3, [EOS] * 3]], np.int32
        ),
        response_mask=np.array([[[1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 1]]], bool),
    )


def test_the_context_is_the_prompt_without_its_last_token():
    np.testing.assert_array_equal(make().context_mask(), [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])


def test_the_continuation_is_the_last_prompt_token_and_the_response():
    tokens, mask, positions = make().continuation()
    assert tokens.shape == mask.shape == positions.shape == (3, 2, 4)
    np.testing.assert_array_equal(tokens[:, :, 0], [[7, 7], [8, 8], [4, 4]])
    np.testing.assert_array_equal(tokens[:, :, 1:], make().response)
    np.testing.assert_array_equal(mask[:, :, 0], np.ones((3, 2)))
    np.testing.assert_array_equal(mask[:, :, 1:], make().response_mask)


def test_positions_count_real_tokens_from_the_start_of_the_prompt():
    _, mask, positions = make().continuation()
    for row, length in enumerate([3, 1, 4]):
        for sample in range(2):
            real = int(mask[row, sample].sum())
            np.testing.assert_array_equal(positions[row, sample, :real], length - 1 + np.arange(real))


def test_an_eos_stays_in_the_mask_where_it_is_the_pad_id_too():
    """Invariant 4: in the prompt, at a response's end, and three times in a response."""
    _, mask, _ = make().continuation()
    np.testing.assert_array_equal(mask.sum(axis=-1), [[3, 4], [2, 3], [1, 4]])
    assert make().context_mask()[2, 1]
