"""The parser of a language model's answer to the question which of two outputs is better."""

import ast
import re
import warnings

_LIST = re.compile(r"\[[^\[\]]*\]")


def parse_ranking(answer: str) -> float | None:
    """Reads `[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]`, as Python or JSON, within prose.

    The list is parsed as a literal. An expression is not evaluated, and makes the answer unreadable.

    Returns:
      The win fraction of model_1: 1 for the better rank, 0 for the worse, 0.5 for equal ranks. None if the answer has
      no such list, or several that disagree.
    """
    fractions = {fraction for found in _LIST.findall(answer) if (fraction := _win_fraction(found)) is not None}
    return fractions.pop() if len(fractions) == 1 else None


def _win_fraction(literal: str) -> float | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of an odd escape in a string
            entries = ast.literal_eval(literal)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    ranks = [(entry.get("model"), str(entry.get("rank"))) for entry in entries]
    if sorted(str(model) for model, _ in ranks) != ["model_1", "model_2"]:
        return None
    first, second = (dict(ranks)[model] for model in ("model_1", "model_2"))
    if not {first, second} <= {"1", "2"}:
        return None
    return 0.5 if first == second else float(first < second)
