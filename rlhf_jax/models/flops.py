"""Operations and bytes of a program, by a formula instead of the compiler's count.

Floating-point operations: two for each parameter of a matrix product and token, and four for each query head, its width
and pair of a query and a key that it sees. Norms, rotations and softmax are not counted. A backward pass costs two
forward ones. Values computed twice to save memory count once, but for the logits, which are never kept.

Bytes between a device and its memory: each product reads its weights once per pass in the dtype in which they are
stored, reads its input and writes its result. Decoding reads all weights and the caches at each token. An optimiser
reads and writes its state. Attention's weights and operations fused into a product stay on the chip.

Shape letters: B prompts, N responses of one prompt, P prompt length, R response length, L layers, D width, F MLP width,
H heads, K KV heads, d head width, V vocabulary, E outer width.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model
from rlhf_jax.parallel import sharding

FLOAT32 = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of a program on all devices, and bytes of each device."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times)


class Rows(NamedTuple):
    """Number and lengths of the rows of a pass."""

    prompts: int
    samples: int
    prompt: int
    response: int

    @classmethod
    def of(cls, sequences: Sequences) -> Rows:
        """The rows of a batch, padding and all, which is what a program computes."""
        return cls(*sequences.response.shape[:2], sequences.prompt.shape[1], sequences.response.shape[2])


class Costs:
    """The work of a network's passes on the mesh in use."""

    def __init__(self, model: Model) -> None:
        a = model.architecture
        self.model, self.itemsize = model, model.dtype.itemsize
        self.frozen_itemsize = 1 if model.blocks.quantize_trunk == "int8" else self.itemsize
        self.batch_shares, self.attention_shares = sharding.shards("batch"), sharding.shards("kv_heads")
        self.vocab_shares, self.embed_shares = sharding.shards("vocab"), sharding.shards("embed")
        attention, mlp = 2 * (a.heads + a.kv_heads) * a.head_dim, (2 + a.gated) * a.mlp_features
        self.layer = a.width * (attention + mlp)  # parameters of a block's products
        # A device's number of a token's features inside a block. Times the width, of the block's parameters.
        self.inside = attention / self.attention_shares + mlp / sharding.shards("mlp")
        self.trained_layers = a.layers - model.frozen_layers

    def _layers(self, frozen: int, trained: int, tokens: float, pairs: float, trained_itemsize: int = FLOAT32) -> Work:
        """Some blocks over tokens. `pairs` are those of queries and keys in one block."""
        a, layers = self.model.architecture, frozen + trained
        flops = layers * (2 * tokens * self.layer + 4 * pairs * a.heads * a.head_dim)
        weights = a.width * self.inside * (frozen * self.frozen_itemsize + trained * trained_itemsize)
        features = 4 * a.width + self.inside
        return Work(flops, weights + layers * tokens / self.batch_shares * features * self.itemsize)

    def _pass(self, rows: Rows, frozen: int, trained: int) -> Work:
        answer = rows.response + 1 if rows.samples else 0
        tokens = rows.prompts * (rows.prompt + rows.samples * answer)
        seen = rows.prompt**2 / 2 + rows.samples * answer * (rows.prompt + answer / 2)
        return self._layers(frozen, trained, tokens, rows.prompts * seen)

    def trunk(self, rows: Rows) -> Work:
        """The frozen blocks forward."""
        return self._pass(rows, self.model.frozen_layers, 0)

    def top(self, rows: Rows) -> Work:
        """The trained blocks forward."""
        return self._pass(rows, 0, self.trained_layers)

    def head(self, tokens: float) -> Work:
        """Logits of that number of states."""
        a = self.model.architecture
        table = a.vocabulary * a.outer_width
        itemsize = self.itemsize if self.model.freeze else FLOAT32
        states = tokens / self.batch_shares * a.outer_width * self.itemsize
        return Work(2 * tokens * table, table * itemsize / self.vocab_shares + states)

    def log_probs(self, rows: Rows) -> Work:
        """Log-probs of the responses, forward."""
        return self.head(rows.prompts * rows.samples * rows.response)

    def log_probs_gradient(self, rows: Rows) -> Work:
        """Their backward pass: the logits again, the gradient by the states and, if it is trained, by the head."""
        return self.log_probs(rows) * (2 if self.model.freeze else 3)

    def prefill(self, rows: Rows) -> Work:
        """Reading prompts, and writing their keys and values."""
        return self.trunk(rows) + self.top(rows) + Work(bytes=self._cache(rows.prompts * rows.prompt))

    def decode(self, rows: Rows) -> Work:
        """Sampling every response to its full length."""
        fed = rows.prompts * rows.samples
        pairs = fed * (rows.prompt + rows.response / 2)
        caches = self._cache(rows.prompts * (rows.prompt + rows.samples * (rows.response + 1)))
        # The top's weights are cast to the compute dtype once, before the first token.
        step = self._layers(self.model.frozen_layers, self.trained_layers, fed, pairs, self.itemsize)
        step += self.head(fed) + Work(bytes=caches)
        return step * rows.response

    def _cache(self, tokens: float) -> float:
        a = self.model.architecture
        numbers = 2 * a.layers * a.kv_heads * a.head_dim * tokens
        return numbers * self.itemsize / (self.batch_shares * self.attention_shares)

    def optimiser(self, microbatches: int) -> Work:
        """One update: gradients added up over microbatches, then top, gradient and two moments, read and written."""
        a = self.model.architecture
        trained = self.trained_layers * a.width * self.inside
        if not self.model.freeze:
            trained += (1 if a.tied else 2) * a.vocabulary * a.outer_width / self.vocab_shares
        return Work(bytes=trained * FLOAT32 * (2 * microbatches + 7) / self.embed_shares)

    def supervised(self, rows: Rows, *, log_probs: bool) -> Work:
        """A whole pass forward, to the responses' log-probs or only to their states."""
        forward = self.trunk(rows) + self.top(rows)
        return forward + self.log_probs(rows) if log_probs else forward

    def supervised_gradient(self, rows: Rows, *, log_probs: bool) -> Work:
        """`supervised` and its backward pass, which ends at the trunk."""
        gradient = self.supervised(rows, log_probs=log_probs) + self.top(rows) * 2
        return gradient + self.log_probs_gradient(rows) if log_probs else gradient

    def rollout_scores(self, rows: Rows, *, tops: int) -> Work:
        """Scoring a rollout from its states: by policy, reference, reward, and by the value if `tops` is 2, not 1."""
        return self.top(rows) * (2 + tops) + self.log_probs(rows) * 2

    def rollout_gradient(self, rows: Rows, *, tops: int) -> Work:
        """The gradient of PPO's loss. `tops` as above."""
        return self.top(rows) * 3 * tops + self.log_probs(rows) + self.log_probs_gradient(rows)

    def rollout_flops(self, rows: Rows, *, longest: int, epochs: float, tops: int) -> dict[str, float]:
        """Floating-point operations of one step of PPO by its phases. `rows` are those of the rollout, `tops` as above.

        Sampling stops after the `longest` response, in tokens. Each row is learned from `epochs` times.
        """
        work = {
            "prefill": self.prefill(rows._replace(samples=0)),
            "decode": self.decode(rows._replace(response=longest)),
            "score": self.rollout_scores(rows, tops=tops),
            "update": self.rollout_gradient(rows, tops=tops) * epochs,
        }
        return {phase: of.flops for phase, of in work.items()}
