"""Rows of the instruction sets: Alpaca, AlpacaFarm's preferences, and the three test sets."""

from rlhf_jax.data import formats
from rlhf_jax.data.sources.rows import Row, ranked, text, value


def demonstration(row: Row) -> dict[str, str]:
    """An instruction, the input that it is about or an empty one, and the answer."""
    return {"prompt": _prompt(row), "response": text(row, "output").strip()}


def evaluation(row: Row) -> dict[str, str]:
    """An instruction that has its input inside, as AlpacaEval writes it, and the reference answer."""
    prompt = formats.instruction_prompt(text(row, "instruction"))
    return {"prompt": prompt, "response": text(row, "output").strip()}


def comparison(row: Row) -> dict[str, str]:
    """Two answers of which one is preferred, as AlpacaFarm codes it: 1 the first, 2 the second."""
    answers = text(row, "output_1"), text(row, "output_2")
    return {"prompt": _prompt(row), **ranked(answers, value(row, "preference"), (1, 2))}


def _prompt(row: Row) -> str:
    return formats.instruction_prompt(text(row, "instruction"), text(row, "input"))
