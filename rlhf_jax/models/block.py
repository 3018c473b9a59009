"""The decoder block, of whatever parts its architecture names.

Shape letters: B prompts, S tokens, D model width, K KV heads, G queries of one KV head, d head width.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.layers import Angles, Dense, GatedMLP, LayerNorm, PlainMLP, RMSNorm, rotate

type Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu}
NORMS = {"rms": RMSNorm, "layer": LayerNorm}


class Block(nn.Module):
    """Attention and MLP with their norms and residual sums.

    Masks, prompts and caches are the caller's, who passes `attend`. `attend(q, k, v) -> out` gets scaled queries
    `[B, K, ..., G, S, d]`, keys and values `[B, K, ..., S, d]`, and returns the shape of `q`.
    """

    architecture: Architecture
    quantised: bool = False  # its products, as in `Dense`

    def setup(self) -> None:
        a = self.architecture
        norm = NORMS[a.norm]
        mlp = GatedMLP if a.gated else PlainMLP
        qkv = (a.kv_heads, a.group + 2, a.head_dim)
        heads = (a.kv_heads, a.group, a.head_dim)
        self.attention_norm = norm(a.epsilon)
        self.qkv = Dense((a.width,), qkv, ("embed", "kv_heads", "qkv", "head_dim"), a.qkv_bias, self.quantised)
        if a.qk_norm:
            self.q_norm = RMSNorm(a.epsilon, "head_dim")
            self.k_norm = RMSNorm(a.epsilon, "head_dim")
        self.out = Dense(heads, (a.width,), ("kv_heads", "group", "head_dim", "embed"), a.out_bias, self.quantised)
        self.mlp_norm = norm(a.epsilon)
        self.mlp = mlp(a.width, a.mlp_features, ACTIVATIONS[a.activation], a.mlp_bias, self.quantised)

    def __call__(
        self, x: Float[Array, "B ... S D"], angles: Angles | None, attend: Attend
    ) -> Float[Array, "B ... S D"]:
        """Applies the block. `angles` as in `queries_keys_values`."""
        mixed = attend(*self.queries_keys_values(x, angles))
        mixed = self.out(jnp.moveaxis(jnp.moveaxis(mixed, 1, -4), -2, -4))  # of [B, ..., S, K, G, d]
        if self.architecture.norm_first:
            x = x + mixed
            return x + self.mlp(self.mlp_norm(x))
        x = self.attention_norm(x + mixed)
        return self.mlp_norm(x + self.mlp(x))

    def queries_keys_values(
        self, x: Float[Array, "B ... S D"], angles: Angles | None
    ) -> tuple[Float[Array, "B K ... G S d"], Float[Array, "B K ... S d"], Float[Array, "B K ... S d"]]:
        """Scaled and rotated queries, rotated keys, and values, by one product.

        Heads move to the front before the rotation: arithmetic between a transpose and the attention's dots keeps the
        compiler from folding the transpose into them (see `contract_rows`).

        `angles` are `[B, ..., S, d / 2]` each, or None: positions are in the embedding, and nothing is rotated.
        """
        a = self.architecture
        qkv = self.qkv(self.attention_norm(x) if a.norm_first else x)  # [B, ..., S, K, G + 2, d]
        qkv = jnp.moveaxis(jnp.moveaxis(qkv, -4, -2), -4, 1)  # [B, K, ..., G + 2, S, d]
        qk, values = qkv[..., : a.group + 1, :, :], qkv[..., a.group + 1, :, :]
        if a.qk_norm:
            qk = jnp.concatenate([self.q_norm(qk[..., :-1, :, :]), self.k_norm(qk[..., -1:, :, :])], axis=-3)
        if angles is not None:
            qk = rotate(qk, tuple(jnp.expand_dims(angle, (1, -3)) for angle in angles))
        queries = qk[..., :-1, :, :] * jnp.asarray(a.head_dim**-0.5, x.dtype)
        return queries, qk[..., -1, :, :], values
