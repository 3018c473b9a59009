"""The architecture as data: the network reads one `Architecture` and nothing else of a model."""

import dataclasses
import math

import numpy as np

POSITION_OFFSET = 2  # OPT's table of learned positions begins with two rows that no real token reads


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al., 2021) with base `theta`, perhaps stretched to longer texts by `factor`.

    Attributes:
      kind: "default", "linear" (all wavelengths times `factor`), "llama3" (the long ones, by parts) or "dynamic"
        (default up to the architecture's `max_length`, undefined beyond).
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
        """`[d / 2]`: radians that each pair of a head turns from one position to the next.

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
    """A decoder. The defaults are LLaMA's: RMS norms before, rotary positions, a gated SiLU MLP, no biases."""

    vocabulary: int  # V, rows of the embedding
    width: int  # D
    layers: int  # L
    heads: int  # H, query heads
    kv_heads: int  # K, key and value heads, which divides H
    head_dim: int  # d
    mlp_features: int  # F
    epsilon: float  # of the norms
    max_length: int  # positions that the model was trained for, and the rows of learned positions
    tied: bool  # the LM head is the embedding
    family: str = "llama"  # a key of `FAMILIES`, under whose names it is exported
    rotary: Rotary | None = Rotary()  # None for learned positions (OPT)
    norm: str = "rms"  # or "layer" (with a bias)
    norm_first: bool = True  # norms before attention and MLP, else after the residual sums (OPT-350M)
    final_norm: bool = True  # a norm after the last block
    gated: bool = True  # the MLP is `down(act(gate(x)) * up(x))`, else `down(act(up(x)))`
    activation: str = "silu"  # or "relu"
    qkv_bias: bool = False  # on queries, keys and values
    out_bias: bool = False  # on attention's output
    mlp_bias: bool = False
    qk_norm: bool = False  # RMS norms on the queries and keys of each head (Qwen3)
    windows: tuple[int | None, ...] = ()  # per layer, as in `window`. () is None for all
    embed_width: int | None = None  # E, width of the embedding and of what the heads read. None is D

    @property
    def group(self) -> int:
        """G, queries that share one KV head."""
        return self.heads // self.kv_heads

    @property
    def outer_width(self) -> int:
        """E, the width of the embedding and of the states that the heads read. OPT-350M projects in and out."""
        return self.embed_width or self.width

    @property
    def length_limit(self) -> int | None:
        """Number of tokens beyond which the network is not defined: learned positions and dynamic scaling end."""
        return self.max_length if self.rotary is None or self.rotary.kind == "dynamic" else None

    def window(self, layer: int, length: int) -> int | None:
        """Number of tokens that a token of this layer sees, itself included. None is all before it of `length`."""
        window = self.windows[layer] if self.windows else None
        return None if window is None or window >= length else window
