"""RLHF in JAX: fine-tune, learn a reward, optimise against it, and measure generalisation and diversity.

The names below are loaded when they are first used (PEP 562), so `import rlhf_jax` imports neither jax nor a device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_jax import metrics
    from rlhf_jax.models.hf.pretrained import load_pretrained, save_pretrained
    from rlhf_jax.sampling.generate import generate

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_pretrained", "metrics", "save_pretrained"]

_MODULE_OF = {
    "load_pretrained": "rlhf_jax.models.hf.pretrained",
    "save_pretrained": "rlhf_jax.models.hf.pretrained",
    "generate": "rlhf_jax.sampling.generate",
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("rlhf_jax.metrics")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
