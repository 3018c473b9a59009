"""Released differences from a base model, added to it: AlpacaFarm's SFT, reward and PPO models (Dubois et al., 2023).

LLaMA's licence kept AlpacaFarm from releasing its models. It released, tensor by tensor, tuned minus base. Its
tokenizer has one token more than the base, `[PAD]`. Its rows in the embedding and the LM head start as the mean of the
others.
"""

import dataclasses
from pathlib import Path

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf import layout
from rlhf_jax.models.hf.sources import Source, digest_of, stored_tensors

SUM = "model_sum.txt"
"""The file with the sum over all numbers of the tuned model, by which its authors check it."""

_BACKBONE = "backbone_model."  # before the names of a reward model's tensors
_HEAD = "reward_head."
_FREQUENCIES = ".rotary_emb.inv_freq"  # stored, and summed, by the transformers of that time


class DifferenceSource:
    """The tuned model, as a `Source` in float32. Each tensor is summed on demand.

    `folder` has files of weights with the differences. `config.json` is not read. The architecture is the base's, with
    as many ids as the difference has rows. `head` is a reward model's kernel `[D]` and bias, and None for a policy.

    Raises:
      UserError: no weights, a file that cannot be read, or tensors that are not those of the base.
    """

    def __init__(self, base: Source, folder: Path) -> None:
        self._base, self._folder = base, folder
        self._stored = stored_tensors(folder)
        self.head: tuple[np.ndarray, float] | None = None
        if f"{_HEAD}weight" in self._stored:
            kernel, bias = (self._difference(f"{_HEAD}{name}") for name in ("weight", "bias"))
            self.head = kernel.reshape(-1), float(bias.item())
        self._prefix = _BACKBONE if self.head else ""
        [table] = next(layout.entries(base.architecture, base.architecture.vocabulary)).tensors  # the embedding
        rows = len(self._difference(f"{self._prefix}{table}"))
        self.architecture = dataclasses.replace(base.architecture, vocabulary=rows)
        stored = {name for name in self._stored if not name.startswith(_HEAD) and not name.endswith(_FREQUENCIES)}
        for place, odd in (
            (folder, stored ^ {f"{self._prefix}{name}" for name in self.names()}),
            ("the base model", self.names() - base.names()),
        ):
            if odd:
                raise UserError(
                    f"{folder}: {min(odd)} is missing from {place} or unexpected there; expected the "
                    "difference of two models of one architecture"
                )

    def names(self) -> set[str]:
        """Names of the tensors of the causal LM."""
        entries = layout.entries(self.architecture, self.architecture.vocabulary)
        return {name for entry in entries for name in entry.tensors}

    def tensor(self, name: str) -> np.ndarray:
        """Base and difference together, float32."""
        difference = self._difference(self._prefix + name)
        base = self._base.tensor(name).astype(np.float32)
        if difference.shape[1:] != base.shape[1:] or len(difference) < len(base):
            raise UserError(
                f"{self._folder}: {name} has the shape {difference.shape}, the base model's is {base.shape}; expected "
                "as many numbers or more rows"
            )
        new = np.broadcast_to(base.mean(axis=0), difference[len(base) :].shape)
        return np.concatenate([base, new]) + difference

    def digest(self, name: str) -> str:
        """SHA-256 of the sum's bytes."""
        return digest_of(self.tensor(name))

    def check_sum(self) -> float:
        """The sum over all numbers, which is the released one to 1e-5 of itself: AlpacaFarm's own test of a recovery.

        Raises:
          UserError: they differ, or the folder does not say what it is.
        """
        path = self._folder / SUM
        try:
            expected = float(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} does not hold the tuned model's sum ({error}); it is released beside it") from None
        found = sum(float(self.tensor(name).sum(dtype=np.float64)) for name in self.names())
        found += sum(self._frequencies(name) for name in self._stored if name.endswith(_FREQUENCIES))
        if self.head:
            kernel, bias = self.head
            found += float(kernel.sum(dtype=np.float64)) + bias
        if not np.isclose(expected, found):
            raise UserError(
                f"{self._folder}: base and difference sum to {found:.4f}, expected {expected:.4f} ({SUM}); this is not "
                "the model that was tuned; AlpacaFarm's is Meta's LLaMA-7B, converted by transformers 4.29 or later"
            )
        return found

    def _difference(self, name: str) -> np.ndarray:
        if name not in self._stored:
            raise UserError(f"{self._folder}: the difference has no tensor {name}, expected one")
        return self._stored[name].read().astype(np.float32)

    def _frequencies(self, name: str) -> float:
        """The sum of the rotary frequencies of a layer. The base's are computed, few files have them."""
        a = self.architecture
        own = a.rotary.theta ** -(np.arange(0, a.head_dim, 2) / a.head_dim)
        return float(own.sum() + self._difference(name).sum(dtype=np.float64))
