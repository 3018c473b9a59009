"""The network: embed -> trunk -> top -> head, over prompts that N responses share.

Parameters are one nested dict:

    embed/table [V, E]   layers/<i>/...   norm/scale [D]   head/table [V, E] (absent when tied)
    value/kernel [E], reward/kernel [E] (the heads of the roles that have them)

and where the architecture has them embed/positions [P, D], embed/project [E, D], norm/bias [D] and head/project [D, E].

`Model.split` cuts that dict at the trunk's edge, `merge` joins it again without a copy. The caller chooses the layers
that run, so the trunk alone and the whole network are the same code. A network that is scanned has runs of blocks as
one array each, `layers/<first>-<last>/...` (`scan`, `parallel.file_layout`).

Shape letters: B prompts, N responses of one prompt, P prompt length, R response length, D width, E outer width (D but
for OPT-350M), V vocabulary, K KV heads, d head width, L layers.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.errors import UserError
from rlhf_jax.models import attention, scan
from rlhf_jax.models.architecture import POSITION_OFFSET, Architecture
from rlhf_jax.models.attention import KeysValues
from rlhf_jax.models.block import NORMS, Attend, Block
from rlhf_jax.models.init import random_parameters
from rlhf_jax.models.layers import Angles, rotary_angles
from rlhf_jax.models.matmul import dense
from rlhf_jax.models.scan import UNROLLED, Blocks
from rlhf_jax.models.sequences import Sequences, real_positions
from rlhf_jax.parallel import file_layout, sharding

type Params = dict[str, Any]


@flax.struct.dataclass
class Edge:
    """States at the trunk's edge, or token ids if no part of the network is frozen.

    Attributes:
      context: `[B, P, D]` in the compute dtype (or `[B, P]` int32).
      continuation: `[B, N, R + 1, D]` (or `[B, N, R + 1]` int32).
    """

    context: jax.Array
    continuation: jax.Array


def merge(trunk: Params, top: Params) -> Params:
    """The parameters of one role from a trunk and a top. Leaves are not copied."""
    return {**trunk, **top, "layers": {**trunk.get("layers", {}), **top.get("layers", {})}}


@dataclasses.dataclass(frozen=True)
class Model:
    """Pure functions of parameters for one architecture.

    Attributes:
      architecture: the shapes.
      dtype: of activations. Parameters are cast to it where they are used.
      freeze: fraction of the blocks that is frozen, `int(freeze * L)` of them from the bottom, with the embeddings and
        the LM head (the study's choice). 0 freezes nothing: the trunk is empty and the edge is the token ids.
      ids: number of ids that the tokenizer has, or None for all of V. The rest is neither sampled nor in a softmax.
      vocabulary_multiple: the embedding and the LM head are stored with V rounded up to a multiple of this, so that a
        mesh divides them. The rows past V are padding.
      blocks: storage, execution and differentiation of the blocks.

    Raises:
      UserError: the tokenizer has more ids than V.
    """

    architecture: Architecture
    dtype: jnp.dtype
    freeze: float = 0.0
    ids: int | None = None
    vocabulary_multiple: int = 1
    blocks: Blocks = UNROLLED

    def __post_init__(self) -> None:
        if self.known_ids > (rows := self.architecture.vocabulary):
            raise UserError(f"the tokenizer knows {self.ids} ids and the embedding has {rows} rows, expected as many")

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

    @property
    def runs(self) -> list[range]:
        """All blocks in order, grouped as they are stored and compiled."""
        return scan.runs(self.architecture, self.frozen_layers, self.blocks.scan)

    def is_frozen(self, path: str) -> bool:
        """True if the parameter at a path ("layers/3/qkv/kernel") belongs to the trunk."""
        kind, *rest = path.split("/")
        if kind == "layers":
            return file_layout.blocks_of(rest[0])[0] < self.frozen_layers
        return self.freeze > 0 and kind in ("embed", "head")

    def split(self, params: Params) -> tuple[Params, Params]:
        """Cuts parameters into `(trunk, top)`. Leaves are not copied."""
        if not self.freeze:
            return {}, params
        frozen = {file_layout.group_name(run) for run in self.runs if run[0] < self.frozen_layers}
        trunk = {key: params[key] for key in ("embed", "head") if key in params}
        top = {key: params[key] for key in params if key not in ("embed", "head", "layers")}
        trunk["layers"] = {i: block for i, block in params["layers"].items() if i in frozen}
        top["layers"] = {i: block for i, block in params["layers"].items() if i not in frozen}
        return trunk, top

    def cast(self, params: Params) -> Params:
        """Parameters in the compute dtype, as the network casts them where it uses them. Int8 ones stay."""
        return jax.tree.map(lambda x: x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)

    def init(self, key: jax.Array) -> Params:
        """Random parameters in float32, boxed with their logical axes (`nn.meta.unbox` gives plain arrays)."""
        a, angles = self.architecture, self.angles(jnp.zeros((1, 1), jnp.int32))
        blocks = [self._block(layer) for layer in range(a.layers)]
        return file_layout.stacked(random_parameters(a, blocks, self.rows, angles, key), self.runs)

    def logical_axes(self) -> dict[str, tuple[str | None, ...]]:
        """The logical axes of every parameter, by its path ("layers/3/qkv/kernel")."""
        boxed = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        leaves = jax.tree.leaves_with_path(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata))
        # A stack's first axis has no name: it is not divided.
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): (None,) * (leaf.value.ndim - len(leaf.names))
            + leaf.names
            for path, leaf in leaves
        }

    def _block(self, layer: int) -> Block:
        quantised = self.blocks.quantize_trunk == "int8" and layer < self.frozen_layers
        return Block(self.architecture, quantised)

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
        """Tokens of a prompt that leave room for that number of new ones. None where positions do not end."""
        limit = self.architecture.length_limit
        return None if limit is None else limit - max_new_tokens

    def embed(self, params: Params, tokens: Int[Array, "*B"], positions: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Embeds ids at their positions among the real tokens, in the compute dtype."""
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
        """Applies the final norm and projection, `[..., D] -> [..., E]`: the states that all heads read."""
        if "norm" in params:
            x = self._norm.apply({"params": params["norm"]}, x)
        return dense(x, params["head"]["project"]) if self.architecture.embed_width else x

    def angles(self, positions: jax.Array) -> Angles | None:
        """Rotary angles of integer positions `[...]`. None where positions are learned."""
        a = self.architecture
        return None if a.rotary is None else rotary_angles(positions, a.rotary.frequencies(a.head_dim))

    def block(self, params: Params, layer: int, x: jax.Array, angles: Angles | None, attend: Attend) -> jax.Array:
        """One block by its own parameters, `[B, ..., D] -> [B, ..., D]`. See `block.Block` for `attend`.

        `layer` may be any block of its run, here and below: only what the blocks of a run have in common is read.
        """
        return sharding.constrain(self._block(layer).apply({"params": params}, x, angles, attend), "batch")

    def keys_values(self, params: Params, layer: int, x: jax.Array, angles: Angles | None) -> KeysValues:
        """Keys and values alone, for a prompt whose queries are not used: `[B, K, P, d]` each."""
        _, k, v = self._block(layer).apply({"params": params}, x, angles, method=Block.queries_keys_values)
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
        for run in self.runs:
            if run[0] not in layers:
                continue
            window = self.architecture.window(run[0], edge.context.shape[1] + sequences.response.shape[2])

            def step(block: Params, edge: Edge, _: None, run: range = run, window: int | None = window) -> Any:
                context, x = edge.context, edge.continuation
                if run[0] == self.architecture.layers - 1:  # nobody reads the prompt's states after the last block
                    prompt = self.keys_values(block, run[0], context, context_angles)
                else:
                    context, prompt = self.read_context(block, run[0], context, context_mask, context_angles)

                def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
                    return attention.responses(q, KeysValues(k, v), prompt, mask, context_mask, positions, window)

                return Edge(context, self.block(block, run[0], x, angles, attend)), None

            step = scan.rematerialised(step, self.blocks.remat, run)
            edge, _ = scan.through(params["layers"], run, step, edge)
        return edge

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
          `[B, N, R + 1, E]` in the compute dtype. Index `i` predicts response token `i`. Index `i + 1` has read it.
        """
        if not self.freeze:
            edge = self._embedded(params, sequences, edge)
        edge = self._layers(params, sequences, edge, range(self.frozen_layers, self.architecture.layers))
        return self.finish(params, edge.continuation)

    def logits(
        self, params: Params, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"] | Int[Array, "B T"]
    ) -> Float[Array, "B T V"]:
        """Logits of whole rows, whatever their padding side, in float32. `mask` is true, or 1, on real tokens.

        Rows of filler tokens contain finite numbers without meaning. V is all of the config's vocabulary, ids that the
        tokenizer does not know included.

        Raises:
          UserError: the rows are longer than the network has positions for.
        """
        self.check_length(tokens.shape[1])
        mask = jnp.asarray(mask, bool)
        positions = real_positions(mask)
        angles = self.angles(positions)
        x = self.embed(params, jnp.asarray(tokens), positions)
        for run in self.runs:

            def step(block: Params, x: jax.Array, _: None, layer: int = run[0]) -> tuple[jax.Array, None]:
                return self.read_context(block, layer, x, mask, angles)[0], None

            x, _ = scan.through(params["layers"], run, step, x)
        table = self.head_table(params)[: self.architecture.vocabulary].astype(self.dtype)
        return jnp.einsum("bte,ve->btv", self.finish(params, x), table, preferred_element_type=jnp.float32)
