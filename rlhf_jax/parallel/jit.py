"""Compile functions so that they round as written, and count compilations."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from rlhf_jax.parallel import sharding

_compiled, _compile_seconds = 0, 0.0


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with bfloat16 rounding exactly as written. `options` are those of `jax.jit`.

    By default XLA may keep a bfloat16 intermediate in float32 inside a fused kernel. Fusion depends on where a network
    is split, on the batch's shape and on whether a gradient is taken. Trunk-then-top would then differ from the whole,
    a resumed run from an uninterrupted one, and PPO's first ratio from 1. With `xla_allow_excess_precision` off, and on
    CPU with matrix products kept out of fusions, none of these differ.
    """
    compiler_options: dict[str, Any] = {"xla_allow_excess_precision": False}
    if sharding.device().platform == "cpu":
        compiler_options["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    return jax.jit(function, compiler_options=compiler_options, **options)


class Step:
    """`(state, ...) -> (state, more)`, jitted by `jit_step`: one program for each structure and place of the state."""

    def __init__(self, program: Callable[..., Any]) -> None:
        self._program = program

    def _for(self, state: Any) -> Any:
        leaves, structure = jax.tree.flatten(state)
        return self._program(structure, *(leaf.sharding for leaf in leaves))

    def __call__(self, state: Any, *arguments: Any) -> tuple[Any, Any]:
        return self._for(state)(state, *arguments)

    def lower(self, state: Any, *arguments: Any) -> jax.stages.Lowered:
        """The program for such arguments. Shapes and shardings are enough."""
        return self._for(state).lower(state, *arguments)


def jit_step(step: Callable[..., tuple[Any, Any]]) -> Step:
    """`(state, ...) -> (state, more)`, jitted: the state is donated, and its arrays come back to where they lay."""

    @functools.cache
    def program(structure: Any, *places: jax.sharding.Sharding) -> Callable[..., Any]:
        return jit(step, donate_argnums=0, out_shardings=(jax.tree.unflatten(structure, places), None))

    return Step(program)


def compile_count() -> int:
    """Number of programs that this process has compiled or read from the cache. It must not rise after warm-up."""
    return _compiled


def compile_seconds() -> float:
    """Seconds spent on those compilations, without tracing."""
    return _compile_seconds


def _count_compilation(event: str, duration: float, **details: Any) -> None:
    global _compiled, _compile_seconds
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled += 1
        _compile_seconds += duration


jax.monitoring.register_event_duration_secs_listener(_count_compilation)
