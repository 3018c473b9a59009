"""The network: embed -> trunk -> top -> head, over prompts that N responses share.

Parameters are one nested dict:

    embed/table [V, D]   layers/<i>/...   norm/scale [D]   head/table [V, D] (absent when tied)
    value/kernel [D], reward/kernel [D] (the heads of the roles that have them)

`Model.split` cuts that dict at the trunk's edge, `merge` joins it again without a copy. What runs is decided by which
layers are asked for, so trunk once and the whole network are the same code.

Shape letters: B prompts, N responses of one prompt, P prompt length, R response length, D width, V vocabulary,
K KV heads, d head width, L layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rlhf_jax.models import attention
from rlhf_jax.models.attention import KeysValues
from rlhf_jax.models.families import Architecture
from rlhf_jax.models.layers import Angles, Block, RMSNorm, rotary_angles
from rlhf_jax.sequences import Sequences

type Params = dict[str, Any]


@flax.struct.dataclass
class Edge:
    """What crosses the trunk's edge: hidden states, or token ids where no part of the network is frozen.

    Attributes:
      context: `[B, P, D]` in the compute dtype (or `[B, P]` int32).
      continuation: `[B, N, R + 1, D]` (or `[B, N, R + 1]` int32).
    """

    context: jax.Array
    continuation: jax.Array


def merge(trunk: Params, top: Params) -> Params:
    """The parameters of one role from a trunk and a top; leaves are not copied."""
    return {**trunk, **top, "layers": {**trunk.get("layers", {}), **top.get("layers", {})}}


@dataclasses.dataclass(frozen=True)
class Model:
    """Pure functions of parameters for one architecture.

    Attributes:
      architecture: the shapes.
      dtype: of activations; parameters are cast to it where they are used.
      freeze: fraction of the blocks that is frozen, `int(freeze * L)` of them from the bottom, with the embeddings and
        the LM head (the study's choice). 0 freezes nothing: the trunk is empty and the edge is the token ids.
    """

    architecture: Architecture
    dtype: jnp.dtype
    freeze: float = 0.0

    @property
    def frozen_layers(self) -> int:
        """Blocks in the trunk."""
        return int(self.freeze * self.architecture.layers)

    def split(self, params: Params) -> tuple[Params, Params]:
        """Cuts parameters into `(trunk, top)`; leaves are not copied."""
        if not self.freeze:
            return {}, params
        frozen = {str(i) for i in range(self.frozen_layers)}
        trunk = {key: params[key] for key in ("embed", "head") if key in params}
        top = {key: params[key] for key in params if key not in ("embed", "head", "layers")}
        trunk["layers"] = {i: block for i, block in params["layers"].items() if i in frozen}
        top["layers"] = {i: block for i, block in params["layers"].items() if i not in frozen}
        return trunk, top

    def init(self, key: jax.Array) -> Params:
        """Random parameters in float32, boxed with their logical axes (`nn.meta.unbox` gives plain arrays)."""
        a = self.architecture
        keys = jax.random.split(key, a.layers + 2)
        table = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        x = jnp.zeros((1, 1, a.width))
        angles = rotary_angles(jnp.zeros((1, 1), jnp.int32), a.head_dim, a.rope_theta)
        params: Params = {"embed": {"table": table(keys[-1], (a.vocabulary, a.width), jnp.float32)}}
        params["layers"] = {
            str(i): self._block.init(keys[i], x, angles, lambda q, k, v: q)["params"] for i in range(a.layers)
        }
        params["norm"] = self._norm.init(keys[0], x)["params"]
        if not a.tied:
            params["head"] = {"table": table(keys[-2], (a.vocabulary, a.width), jnp.float32)}
        return params

    @property
    def _block(self) -> Block:
        a = self.architecture
        return Block(a.width, a.kv_heads, a.group, a.head_dim, a.mlp_features, a.epsilon)

    @property
    def _norm(self) -> RMSNorm:
        return RMSNorm(self.architecture.epsilon)

    def embed(self, params: Params, tokens: jax.Array) -> jax.Array:
        """`[...]` int32 ids -> `[..., D]` in the compute dtype."""
        return params["embed"]["table"].astype(self.dtype)[tokens]

    def head_table(self, params: Params) -> jax.Array:
        """The LM head `[V, D]`, in its stored dtype."""
        return params["embed" if self.architecture.tied else "head"]["table"]

    def norm(self, params: Params, x: jax.Array) -> jax.Array:
        """The final norm, `[..., D] -> [..., D]`: what the LM head and the heads of the roles read."""
        return self._norm.apply({"params": params["norm"]}, x)

    def angles(self, positions: jax.Array) -> Angles:
        """Rotary angles of integer positions `[...]`."""
        return rotary_angles(positions, self.architecture.head_dim, self.architecture.rope_theta)

    def block(self, params: Params, layer: int, x: jax.Array, angles: Angles, attend: Any) -> jax.Array:
        """One block, `[..., D] -> [..., D]`; see `layers.Block` for `attend`."""
        return self._block.apply({"params": params["layers"][str(layer)]}, x, angles, attend)

    def keys_values(self, params: Params, layer: int, x: jax.Array, angles: Angles) -> KeysValues:
        """Keys and values alone, for a prompt whose queries nobody asks for: `[B, K, P, d]` each."""
        block = {"params": params["layers"][str(layer)]}
        _, k, v = self._block.apply(block, x, angles, method=Block.queries_keys_values)
        return KeysValues(k, v)

    def read_context(
        self, params: Params, layer: int, x: jax.Array, mask: jax.Array, angles: Angles
    ) -> tuple[jax.Array, KeysValues]:
        """One block over the prompts, `[B, P, D] -> [B, P, D]`, with the keys and values that responses will read."""
        kept: list[KeysValues] = []

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            kept.append(KeysValues(k, v))
            return attention.causal(q, kept[0], mask).out

        return self.block(params, layer, x, angles, attend), kept[0]

    def _layers(self, params: Params, sequences: Sequences, edge: Edge, layers: range) -> Edge:
        """Runs some of the blocks over context and continuation together."""
        context_mask = sequences.context_mask()
        context_angles = self.angles(jnp.maximum(jnp.cumsum(context_mask, axis=1) - 1, 0))
        _, mask, positions = sequences.continuation()
        angles = self.angles(positions)
        context, x = edge.context, edge.continuation
        for layer in layers:
            if layer == self.architecture.layers - 1:  # nobody reads the prompt's states after the last block
                prompt = self.keys_values(params, layer, context, context_angles)
            else:
                context, prompt = self.read_context(params, layer, context, context_mask, context_angles)

            def attend(q: jax.Array, k: jax.Array, v: jax.Array, prompt: KeysValues = prompt) -> jax.Array:
                own = attention.causal(q, KeysValues(k, v), mask)
                return attention.merge(own, attention.shared(q, prompt, context_mask))

            x = self.block(params, layer, x, angles, attend)
        return Edge(context, x)

    def trunk(self, params: Params, sequences: Sequences) -> Edge:
        """Runs the frozen part: token ids to the states at the trunk's edge."""
        tokens, _, _ = sequences.continuation()
        edge = Edge(sequences.prompt, tokens)
        if not self.freeze:
            return edge
        edge = jax.tree.map(lambda ids: self.embed(params, ids), edge)
        return self._layers(params, sequences, edge, range(self.frozen_layers))

    def top(self, params: Params, sequences: Sequences, edge: Edge) -> jax.Array:
        """Runs the rest from the trunk's edge to the final norm.

        Returns:
          `[B, N, R + 1, D]` in the compute dtype. Index `i` predicts response token `i`; index `i + 1` has read it.
        """
        if not self.freeze:
            edge = jax.tree.map(lambda ids: self.embed(params, ids), edge)
        edge = self._layers(params, sequences, edge, range(self.frozen_layers, self.architecture.layers))
        return self.norm(params, edge.continuation)

    def logits(self, params: Params, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Logits of whole rows, whatever their padding side.

        Args:
          params: all parameters.
          tokens: `[B, T]` int32.
          mask: `[B, T]` bool or 0/1, true on real tokens.

        Returns:
          `[B, T, V]` float32; rows of filler tokens hold finite numbers without meaning.
        """
        mask = jnp.asarray(mask, bool)
        angles = self.angles(jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0))
        x = self.embed(params, jnp.asarray(tokens))
        for layer in range(self.architecture.layers):
            x, _ = self.read_context(params, layer, x, mask, angles)
        table = self.head_table(params).astype(self.dtype)
        return jnp.einsum("btd,vd->btv", self.norm(params, x), table, preferred_element_type=jnp.float32)
