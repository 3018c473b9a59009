"""This project's side of the oracle: how far it is from what `make_references.py` wrote, as numbers.

Errors of logits, states and scores are the largest difference over the standard deviation of what was expected.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import rlhf_jax
from rlhf_jax.models import heads
from rlhf_jax.models.hf import pretrained
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.sampling import rollouts
from tests.oracle.cases import BATCHES, GREEDY_TOKENS

PROMPT = 3  # tokens of a row of `right` that are its prompt. The rest is the response

# What has to hold.
MAX_ERROR = 1e-4
MAX_GRADIENT_ERROR = 1e-3
MAX_EXPORT_ERROR = 1e-5  # of the same weights, which torch multiplies differently depending on where in memory they lie

# A gradient may be nothing but rounding: a constant added to all keys cancels in the softmax. So the error of a tensor
# whose gradient is smaller than this part of the whole gradient is relative to that part.
_SMALLEST_GRADIENT = 1e-3


@dataclasses.dataclass(frozen=True)
class Reference:
    """A case as this project loads it, and the numbers of transformers (see `make_references.py`)."""

    folder: Path
    model: Model
    params: Params
    expected: Mapping[str, np.ndarray]


def read(folder: Path) -> Reference:
    """One case's folder.

    Raises:
      UserError: as `rlhf_jax.load_pretrained`.
    """
    model, params = rlhf_jax.load_pretrained(str(folder))
    with np.load(folder / "expected.npz") as arrays:
        return Reference(folder, model, params, dict(arrays))


def logits_errors(reference: Reference) -> dict[str, float]:
    """Error of the logits of the real tokens, of each of `BATCHES`."""
    logits = jax.jit(reference.model.logits)
    errors = {}
    for batch in BATCHES:
        tokens, mask, expected = (reference.expected[f"{batch}/{name}"] for name in ("tokens", "mask", "logits"))
        actual = np.asarray(logits(reference.params, tokens, mask))[mask]
        errors[batch] = float(np.abs(actual - expected).max() / expected.std())
    return errors


def states_and_scores_error(reference: Reference) -> tuple[float, float]:
    """Errors of the states that the LM head reads and of a reward head's scores, over prompts and their responses."""
    model, expected = reference.model, reference.expected
    tokens, mask = expected["right/tokens"], expected["right/mask"]
    sequences = Sequences(tokens[:, :PROMPT], mask[:, :PROMPT], tokens[:, None, PROMPT:], mask[:, None, PROMPT:])
    params = heads.with_head(reference.params, "reward", jnp.asarray(expected["scores/kernel"]))

    def states_and_scores(params: Params, sequences: Sequences) -> tuple[jax.Array, jax.Array]:
        hidden = model.top(params, sequences, model.trunk(params, sequences))
        return hidden, heads.scores(params, sequences, hidden)

    hidden, scores = jax.tree.map(np.asarray, jax.jit(states_and_scores)(params, sequences))
    rows = np.split(expected["right/hidden"], np.cumsum(mask.sum(axis=1))[:-1])
    states_error = 0.0
    for row, states in enumerate(rows):
        from_last_prompt_token = states[min(PROMPT, len(states)) - 1 :]
        actual = hidden[row, 0, : len(from_last_prompt_token)]
        states_error = max(states_error, np.abs(actual - from_last_prompt_token).max())
    spread = (expected["right/hidden"] @ expected["scores/kernel"]).std()
    scores_error = np.abs(scores[:, 0] - expected["scores/right"]).max()
    return float(states_error / expected["right/hidden"].std()), float(scores_error / spread)


def gradient_errors(reference: Reference) -> dict[str, float]:
    """Of every tensor under its Hugging Face name: the norm of the gradient's difference over the gradient's norm.

    Raises:
      ValueError: the tensors are not those of the reference.
    """
    model, expected = reference.model, reference.expected
    tokens, mask = expected["right/tokens"], expected["right/mask"]

    def loss(params: Params) -> jax.Array:
        log_probs = jax.nn.log_softmax(model.logits(params, tokens, mask)[:, :-1])
        chosen = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
        return -jnp.sum(chosen, where=mask[:, 1:]) / mask[:, 1:].sum()

    actual = pretrained.to_hugging_face_tensors(model, jax.jit(jax.grad(loss))(reference.params))
    prefix = "gradient/"
    wanted = {name.removeprefix(prefix): array for name, array in expected.items() if name.startswith(prefix)}
    if actual.keys() != wanted.keys():
        raise ValueError(f"gradients of different tensors: {sorted(actual.keys() ^ wanted.keys())}")
    smallest = _SMALLEST_GRADIENT * np.sqrt(sum(np.sum(gradient**2) for gradient in wanted.values()))
    return {
        name: float(np.linalg.norm(actual[name] - gradient) / max(np.linalg.norm(gradient), smallest))
        for name, gradient in wanted.items()
    }


def greedy_continuation(reference: Reference) -> np.ndarray:
    """`[2, R]` tokens after the two prompts, sampled together at temperature 0. No token ends a response."""
    sample = rollouts.make_sample(reference.model, samples=1, max_new_tokens=GREEDY_TOKENS, temperature=0.0, eos_id=-1)
    prompt, mask = reference.expected["greedy/tokens"], reference.expected["greedy/mask"]
    sampled = sample({}, reference.params, prompt, mask, np.arange(len(prompt)), jax.random.key(0))
    return np.asarray(sampled.sequences.response[:, 0])


def changed_by_a_round_trip(reference: Reference, folder: Path) -> list[str]:
    """Names of the tensors that differ in any bit or are not in both, after an export to `folder`."""
    rlhf_jax.save_pretrained(folder, reference.model, reference.params)
    before, after = (load_file(place / "model.safetensors") for place in (reference.folder, folder))
    return [
        name
        for name in sorted(before.keys() | after.keys())
        if not (name in before and name in after and _same_bits(before[name], after[name]))
    ]


def export_reward_model(reference: Reference, folder: Path, ids: int) -> None:
    """Writes a reward model with the reference's head, and a tokenizer of `ids` words, none of them a pad token."""
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{i}": i for i in range(ids)}, unk_token="t0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    params = heads.with_head(reference.params, "reward", jnp.asarray(reference.expected["scores/kernel"]))
    pretrained.save_reward_model(folder, reference.model, params, tokenizer, mean=0.5, std=2.0)


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
