"""The architecture as data: the network reads one `Architecture` and nothing else of a model."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

POSITION_OFFSET = 2  # OPT's table of learned positions begins with two rows that no real token reads


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al., 2021) and how they are stretched to longer texts.

    Attributes:
      theta: base of the wavelengths.
      kind: "default". "linear" (all wavelengths times `factor`). "llama3" (the long ones, by parts). "dynamic" (default
        up to the architecture's `max_length`, undefined beyond).
      factor: of the stretch.
      low_frequency_factor: "llama3" alone: wavelengths above `original_length / low_frequency_factor` are stretched.
      high_frequency_factor: those below `original_length / high_frequency_factor` are not. Between them, in part.
      original_length: tokens that the model was trained on before it was stretched.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 1.0
    original_length: int = 0

    def frequencies(self, head_dim: int) -> np.ndarray:
        """`[d / 2]` float32: radians that each pair of a head turns from one position to the next.

        In float32 throughout, as the checkpoints were trained.
        """
        inverse = np.float32(1) / np.float32(self.theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
        if self.kind == "linear":
            return inverse / np.float32(self.factor)
        if self.kind != "llama3":
            return inverse
        low, high = self.low_frequency_factor, self.high_frequency_factor
        turns = self.original_length * inverse / (2 * math.pi)  # within the original length
        unstretched = np.clip((turns - low) / (high - low), 0, 1)
        return ((1 - unstretched) * inverse / self.factor + unstretched * inverse).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A decoder. The defaults are LLaMA's: RMS norms before, rotary positions, a gated SiLU MLP, no biases.

    Attributes:
      vocabulary: V, rows of the embedding.
      width: D.
      layers: L.
      heads: H, query heads.
      kv_heads: K, key and value heads. Divides H.
      head_dim: d.
      mlp_features: F.
      epsilon: of the norms.
      max_length: positions that the model was trained for. The rows of learned positions.
      tied: whether the LM head is the embedding.
      family: a key of `FAMILIES`, under whose names it is exported.
      rotary: rotary positions, or None for learned ones (OPT).
      norm: "rms" or "layer" (with a bias).
      norm_first: whether the norms stand before attention and MLP. After the residual sums otherwise (OPT-350M).
      final_norm: whether there is a norm after the last block.
      gated: whether the MLP is `down(act(gate(x)) * up(x))`. `down(act(up(x)))` otherwise.
      activation: "silu" or "relu".
      qkv_bias: biases on queries, keys and values.
      out_bias: a bias on attention's output.
      mlp_bias: biases in the MLP.
      qk_norm: RMS norms on the queries and keys of each head (Qwen3).
      windows: of each layer, how many tokens a token sees, itself included. None is all before it. () is all None.
      embed_width: E, width of the embedding and of what the heads read. None is D (OPT-350M projects in and out).
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_features: int
    epsilon: float
    max_length: int
    tied: bool
    family: str = "llama"
    rotary: Rotary | None = Rotary()
    norm: str = "rms"
    norm_first: bool = True
    final_norm: bool = True
    gated: bool = True
    activation: str = "silu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()
    embed_width: int | None = None

    @property
    def group(self) -> int:
        """G, queries that share one KV head."""
        return self.heads // self.kv_heads

    @property
    def outer_width(self) -> int:
        """E, the width of the embedding and of the states that the heads read."""
        return self.embed_width or self.width

    @property
    def length_limit(self) -> int | None:
        """Tokens beyond which the network is not defined, or None: learned positions and dynamic scaling end."""
        return self.max_length if self.rotary is None or self.rotary.kind == "dynamic" else None

    def window(self, layer: int, length: int) -> int | None:
        """Number of tokens that a token of this layer sees, itself included. None is all before it in `length`
        tokens.
        """
        window = self.windows[layer] if self.windows else None
        return None if window is None or window >= length else window
