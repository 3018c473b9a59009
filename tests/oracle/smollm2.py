"""SmolLM2 itself against transformers: greedy decoding in float32, and how often bfloat16 has float32's first choice.

This project loads the GGUF and exports it. Transformers (`smollm2_reference.py`) loads that export. Both read the same
text, docstrings of the standard library.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import rlhf_jax
from rlhf_jax import assets
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling import rollouts

MODULES = (
    "argparse", "asyncio", "collections", "contextlib", "csv", "datetime", "decimal", "difflib", "fractions",
    "functools", "heapq", "http.client", "inspect", "ipaddress", "itertools", "json", "logging", "math", "os",
    "pathlib", "pickle", "random", "re", "shutil", "socket", "statistics", "string", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "typing", "unittest", "urllib.parse", "zipfile",
)  # fmt: skip
ROWS, LENGTH = 64, 256  # the text, in tokens
ROWS_AT_ONCE = 4
PROMPTS, NEW_TOKENS = 10, 200

CLEAR_GAP = 0.25  # of float32's first choice to its second, in nats
MAX_POINTS_BELOW = 0.5
MIN_CLEAR_AGREEMENT = 99.5  # percent


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What was measured. Agreements are percent of positions where bfloat16's first choice is float32's.

    Attributes:
      equal: how many of the greedy continuations are transformers'.
      ours: agreement of this project with itself.
      theirs: agreement of transformers with itself.
      ours_where_clear: of this project, where float32's first choice is `CLEAR_GAP` ahead.
    """

    equal: int
    ours: float
    theirs: float
    ours_where_clear: float

    @property
    def holds(self) -> bool:
        """Whether nothing is worse than asked for."""
        return (
            self.equal == PROMPTS
            and self.ours >= self.theirs - MAX_POINTS_BELOW
            and self.ours_where_clear >= MIN_CLEAR_AGREEMENT
        )

    def table(self) -> str:
        return "\n".join(
            [
                "| SmolLM2-135M-Instruct | rlhf_jax | transformers |",
                "|---|---|---|",
                f"| equal greedy continuations of {NEW_TOKENS} tokens, float32 | {self.equal} of {PROMPTS} | |",
                f"| bfloat16 has float32's first choice, of {ROWS * LENGTH} tokens | {self.ours:.1f} % "
                f"| {self.theirs:.1f} % |",
                f"| where that is {CLEAR_GAP} nats ahead of the second | {self.ours_where_clear:.1f} % | |",
            ]
        )


def compare(folder: Path, run_torch: Callable[..., str]) -> Agreement:
    """Measures both sides. Takes minutes.

    Args:
      folder: for the export and for what the two sides tell each other.
      run_torch: `compare_live.run_torch`.
    """
    model, params = rlhf_jax.load_pretrained(assets.SMOLLM2)
    rlhf_jax.save_pretrained(folder / "model", model, params)
    tokens = text()
    prompt, mask = prompts(tokens)
    np.savez(folder / "inputs.npz", tokens=tokens, prompt=prompt, mask=mask, new_tokens=NEW_TOKENS)

    sample = rollouts.make_sample(model, samples=1, max_new_tokens=NEW_TOKENS, temperature=0.0, eos_id=-1)
    sampled = sample({}, params, prompt, mask, np.arange(PROMPTS), jax.random.key(0))
    continuations = np.asarray(sampled.sequences.response[:, 0])
    first, gap = choices("float32", tokens)
    same = choices("bfloat16", tokens)[0] == first

    run_torch("smollm2_reference.py", folder / "model", folder / "inputs.npz", folder / "expected.npz")
    with np.load(folder / "expected.npz") as expected:
        return Agreement(
            equal=int((continuations == expected["continuations"]).all(axis=1).sum()),
            ours=100 * float(same.mean()),
            theirs=100 * float((expected["bfloat16"] == expected["float32"]).mean()),
            ours_where_clear=100 * float(same[gap > CLEAR_GAP].mean()),
        )


def text() -> np.ndarray:
    """`[ROWS, LENGTH]` int32: docstrings one after another, cut into rows."""
    found = []
    for module in map(importlib.import_module, MODULES):
        documented = [
            value for _, value in sorted(vars(module).items()) if inspect.isroutine(value) or inspect.isclass(value)
        ]
        found += [inspect.getdoc(value) or "" for value in [module, *documented]]
    joined = "\n\n".join(dict.fromkeys(found))
    ids = load_tokenizer(assets.SMOLLM2)(joined, split_special_tokens=True).input_ids
    return np.array(ids[: ROWS * LENGTH], np.int32).reshape(ROWS, LENGTH)


def prompts(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The starts of some rows, of 8 to 80 tokens, right-padded: `[PROMPTS, P]` int32 and their mask."""
    lengths = 8 * (1 + np.arange(PROMPTS))
    prompt = tokens[:: ROWS // PROMPTS][:PROMPTS, : lengths.max()]
    return prompt, np.arange(lengths.max()) < lengths[:, None]


def choices(dtype: str, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every token the likeliest next one and how far it is ahead of the second, in nats: `[ROWS, LENGTH]` each."""
    model, params = rlhf_jax.load_pretrained(assets.SMOLLM2, dtype=dtype)
    best = jit(lambda params, rows: jax.lax.top_k(model.logits(params, rows, np.ones(rows.shape, bool)), 2))
    first, gap = [], []
    for rows in np.split(tokens, ROWS // ROWS_AT_ONCE):
        values, ids = map(np.asarray, best(params, rows))
        first.append(ids[..., 0])
        gap.append(values[..., 0] - values[..., 1])
    return np.concatenate(first), np.concatenate(gap)
