"""The network: embed -> trunk -> top -> head, over prompts that N responses share.

Parameters are one nested dict:

    embed/table [V, E]   layers/<i>/...   norm/scale [D]   head/table [V, E] (absent when tied)
    value/kernel [E], reward/kernel [E] (the heads of the roles that have them)

and where the architecture has them embed/positions [P, D], embed/project [E, D], norm/bias [D] and head/project [D, E].

`Model.split` cuts that dict at the trunk's edge, `merge` joins it again without a copy. What runs is decided by which
layers are asked for, so trunk once and the whole network are the same code.

Shape letters: B prompts, N responses of one prompt, P prompt length, R response length, D width, E outer width (D but
for OPT-350M), V vocabulary, K KV heads, d head width, L layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rlhf_jax import sharding
from rlhf_jax.errors import UserError
from rlhf_jax.models import attention
from rlhf_jax.models.architecture import POSITION_OFFSET, Architecture
from rlhf_jax.models.attention import KeysValues
from rlhf_jax.models.block import NORMS, Angles, Attend, Block
from rlhf_jax.models.layers import rotary_angles
from rlhf_jax.models.products import dense
from rlhf_jax.sequences import Sequences, real_positions

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
      ids: how many ids the tokenizer knows, or None for all of V; the rest is neither sampled nor in a softmax.
      vocabulary_multiple: the embedding and the LM head are stored with V rounded up to a multiple of this, so that a
        mesh divides them; the rows past V are padding.
    """

    architecture: Architecture
    dtype: jnp.dtype
    freeze: float = 0.0
    ids: int | None = None
    vocabulary_multiple: int = 1

    @property
    def rows(self) -> int:
        """Rows of the embedding and the LM head as stored."""
        return -(-self.architecture.vocabulary // self.vocabulary_multiple) * self.vocabulary_multiple

    @property
    def known_ids(self) -> int:
        """Ids that may be sampled: `[0, known_ids)`."""
        return self.ids or self.architecture.vocabulary

    @property
    def frozen_layers(self) -> int:
        """Blocks in the trunk."""
        return int(self.freeze * self.architecture.layers)

    def is_frozen(self, path: str) -> bool:
        """Whether the parameter at a path ("layers/3/qkv/kernel") belongs to the trunk."""
        kind, *rest = path.split("/")
        if not self.freeze:
            return False
        return kind in ("embed", "head") or (kind == "layers" and int(rest[0]) < self.frozen_layers)

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
        *layers, embed, positions, project_in, head, project_out = jax.random.split(key, a.layers + 5)

        def table(key: jax.Array, rows: int, width: int, axis: str) -> Any:
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (axis, "embed"))
            return init(key, (rows, width), jnp.float32)

        def project(key: jax.Array, rows: int, columns: int) -> Any:
            init = nn.with_logical_partitioning(nn.initializers.normal(rows**-0.5), (None, "embed"))
            return init(key, (rows, columns), jnp.float32)

        x = jnp.zeros((1, 1, a.width))
        angles = self.angles(jnp.zeros((1, 1), jnp.int32))
        params: Params = {"embed": {"table": table(embed, self.rows, a.outer_width, "vocab")}}
        if a.rotary is None:
            params["embed"]["positions"] = table(positions, a.max_length + POSITION_OFFSET, a.width, "positions")
        if a.embed_width:
            params["embed"]["project"] = project(project_in, a.outer_width, a.width)
        params["layers"] = {
            str(i): self._block.init(layers[i], x, angles, lambda q, k, v: q)["params"] for i in range(a.layers)
        }
        if a.final_norm:
            params["norm"] = self._norm.init(key, x)["params"]
        if not a.tied:
            params["head"] = {"table": table(head, self.rows, a.outer_width, "vocab")}
        if a.embed_width:
            params.setdefault("head", {})["project"] = project(project_out, a.width, a.outer_width)
        return params

    def logical_axes(self) -> dict[str, tuple[str | None, ...]]:
        """The logical axes of every parameter, by its path ("layers/3/qkv/kernel")."""
        boxed = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        leaves = jax.tree.leaves_with_path(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata))
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.names for path, leaf in leaves}

    @property
    def _block(self) -> Block:
        return Block(self.architecture)

    @property
    def _norm(self) -> nn.Module:
        return NORMS[self.architecture.norm](self.architecture.epsilon)

    def check_length(self, length: int) -> None:
        """Refuses rows of `length` tokens, padding included, that the network has no positions for.

        Raises:
          UserError: learned positions or dynamically scaled ones end before.
        """
        limit = self.architecture.length_limit
        if limit is not None and length > limit:
            raise UserError(f"rows are {length} tokens long, padding included, and this network has {limit} positions")

    def longest_prompt(self, max_new_tokens: int) -> int | None:
        """Tokens of a prompt that leave room for so many new ones; None where positions do not end."""
        limit = self.architecture.length_limit
        return None if limit is None else limit - max_new_tokens

    def embed(self, params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """`[...]` int32 ids and their positions among the real tokens -> `[..., D]` in the compute dtype."""
        embed = params["embed"]
        x = embed["table"].astype(self.dtype)[tokens]
        if "project" in embed:
            x = dense(x, embed["project"])
        if "positions" in embed:
            x = x + embed["positions"].astype(self.dtype)[positions + POSITION_OFFSET]
        return sharding.constrain(x, "batch")

    def head_table(self, params: Params) -> jax.Array:
        """The LM head `[V, E]`, in its stored dtype."""
        return params["embed" if self.architecture.tied else "head"]["table"]

    def finish(self, params: Params, x: jax.Array) -> jax.Array:
        """What follows the last block, `[..., D] -> [..., E]`: the states that the heads of all roles read."""
        if "norm" in params:
            x = self._norm.apply({"params": params["norm"]}, x)
        return dense(x, params["head"]["project"]) if self.architecture.embed_width else x

    def angles(self, positions: jax.Array) -> Angles | None:
        """Rotary angles of integer positions `[...]`; None where positions are learned."""
        a = self.architecture
        return None if a.rotary is None else rotary_angles(positions, a.rotary.frequencies(a.head_dim))

    def block(self, params: Params, layer: int, x: jax.Array, angles: Angles | None, attend: Attend) -> jax.Array:
        """One block, `[B, ..., D] -> [B, ..., D]`; see `block.Block` for `attend`."""
        x = self._block.apply({"params": params["layers"][str(layer)]}, x, angles, attend)
        return sharding.constrain(x, "batch")

    def keys_values(self, params: Params, layer: int, x: jax.Array, angles: Angles | None) -> KeysValues:
        """Keys and values alone, for a prompt whose queries nobody asks for: `[B, K, P, d]` each."""
        block = {"params": params["layers"][str(layer)]}
        _, k, v = self._block.apply(block, x, angles, method=Block.queries_keys_values)
        return KeysValues(k, v)

    def read_context(
        self, params: Params, layer: int, x: jax.Array, mask: jax.Array, angles: Angles | None
    ) -> tuple[jax.Array, KeysValues]:
        """One block over the prompts, `[B, P, D] -> [B, P, D]`, with the keys and values that responses will read."""
        kept: list[KeysValues] = []

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            kept.append(KeysValues(k, v))
            return attention.causal(q, kept[0], mask, self.architecture.window(layer, mask.shape[1]))

        return self.block(params, layer, x, angles, attend), kept[0]

    def _layers(self, params: Params, sequences: Sequences, edge: Edge, layers: range) -> Edge:
        """Runs some of the blocks over context and continuation together."""
        context_mask = sequences.context_mask()
        context_angles = self.angles(real_positions(context_mask))
        _, mask, positions = sequences.continuation()
        angles = self.angles(positions)
        context, x = edge.context, edge.continuation
        for layer in layers:
            if layer == self.architecture.layers - 1:  # nobody reads the prompt's states after the last block
                prompt = self.keys_values(params, layer, context, context_angles)
            else:
                context, prompt = self.read_context(params, layer, context, context_mask, context_angles)
            window = self.architecture.window(layer, context.shape[1] + sequences.response.shape[2])

            def attend(
                q: jax.Array,
                k: jax.Array,
                v: jax.Array,
                prompt: KeysValues = prompt,
                window: int | None = window,
            ) -> jax.Array:
                return attention.responses(q, KeysValues(k, v), prompt, mask, context_mask, positions, window)

            x = self.block(params, layer, x, angles, attend)
        return Edge(context, x)

    def _embedded(self, params: Params, sequences: Sequences, edge: Edge) -> Edge:
        """The states below the first block, of an edge that holds token ids."""
        _, _, positions = sequences.continuation()
        context = self.embed(params, edge.context, real_positions(sequences.context_mask()))
        return Edge(context, self.embed(params, edge.continuation, positions))

    def trunk(self, params: Params, sequences: Sequences) -> Edge:
        """Runs the frozen part: token ids to the states at the trunk's edge.

        Raises:
          UserError: the rows are longer than the network has positions for.
        """
        self.check_length(sequences.prompt.shape[1] + sequences.response.shape[2])
        tokens, _, _ = sequences.continuation()
        edge = Edge(sequences.prompt, tokens)
        if not self.freeze:
            return edge
        return self._layers(params, sequences, self._embedded(params, sequences, edge), range(self.frozen_layers))

    def top(self, params: Params, sequences: Sequences, edge: Edge) -> jax.Array:
        """Runs the rest from the trunk's edge to the states that the heads read.

        Returns:
          `[B, N, R + 1, E]` in the compute dtype. Index `i` predicts response token `i`; index `i + 1` has read it.
        """
        if not self.freeze:
            edge = self._embedded(params, sequences, edge)
        edge = self._layers(params, sequences, edge, range(self.frozen_layers, self.architecture.layers))
        return self.finish(params, edge.continuation)

    def logits(self, params: Params, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Logits of whole rows, whatever their padding side.

        Args:
          params: all parameters.
          tokens: `[B, T]` int32.
          mask: `[B, T]` bool or 0/1, true on real tokens.

        Returns:
          `[B, T, V]` float32; rows of filler tokens hold finite numbers without meaning. V is all of the config's
          vocabulary, ids that the tokenizer does not know included.

        Raises:
          UserError: the rows are longer than the network has positions for.
        """
        self.check_length(tokens.shape[1])
        mask = jnp.asarray(mask, bool)
        positions = real_positions(mask)
        angles = self.angles(positions)
        x = self.embed(params, jnp.asarray(tokens), positions)
        for layer in range(self.architecture.layers):
            x, _ = self.read_context(params, layer, x, mask, angles)
        table = self.head_table(params)[: self.architecture.vocabulary].astype(self.dtype)
        return jnp.einsum("bte,ve->btv", self.finish(params, x), table, preferred_element_type=jnp.float32)
