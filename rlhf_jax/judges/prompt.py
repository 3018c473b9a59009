"""What a language model is asked when it compares two outputs, and how its answer is read."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.cache import Message

REMINDER = (
    "That could not be read. Reply with the list alone, one entry for each model, and no other words: "
    "[{'model': 'model_1', 'rank': <1 or 2>}, {'model': 'model_2', 'rank': <1 or 2>}]"
)


_FOLDER = Path(__file__).parent / "prompts"
_FIELDS = ("prompt", "output_1", "output_2")
_FIELD = re.compile(r"\{(" + "|".join(_FIELDS) + r")\}")
_SECTIONS = re.compile(r"\[system\]\n(?P<system>.*)\n\[user\]\n(?P<user>.*)", re.DOTALL)
_LIST = re.compile(r"\[[^\[\]]*\]")


@dataclass(frozen=True)
class PairwisePrompt:
    """A system and a user message in which `{prompt}`, `{output_1}` and `{output_2}` stand for texts."""

    system: str
    user: str

    def messages(self, prompt: str, output_1: str, output_2: str) -> list[Message]:
        """The messages that show two outputs; a field's name inside a text is left as it is."""
        texts = dict(zip(_FIELDS, (prompt, output_1, output_2), strict=True))
        user = _FIELD.sub(lambda field: texts[field[1]], self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


def load_prompt(name: str) -> PairwisePrompt:
    """Reads a prompt: a line `[system]` and that message, a line `[user]` and that one, which has the three fields.

    Args:
      name: one of the files in `prompts/`, without `.txt`, or the path of another one.

    Raises:
      UserError: there is no such file, or it is not of this form.
    """
    known = sorted(path.stem for path in _FOLDER.glob("*.txt"))
    path = _FOLDER / f"{name}.txt" if name in known else Path(name)
    if not path.is_file():
        raise UserError(f"The judge's prompt {name!r} is not there, expected {', '.join(known)} or the path of a file.")
    sections = _SECTIONS.fullmatch(path.read_text(encoding="utf-8").strip())
    if sections is None:
        raise UserError(f"{path} has no line [system] at its start and line [user] below it, expected both.")
    found = sorted(_FIELD.findall(sections["user"]))
    if found != sorted(_FIELDS):
        raise UserError(
            f"{path} shows the fields {', '.join(found) or 'none'} to the user, "
            f"expected each of {', '.join(_FIELDS)} once, in braces."
        )
    return PairwisePrompt(sections["system"].strip(), sections["user"].strip())


def parse_ranking(answer: str) -> float | None:
    """Reads `[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]`, as Python or JSON, prose around it.

    The list is parsed as a literal: an expression in it is not evaluated, it makes the answer unreadable.

    Returns:
      What model_1 gets: 1 for the better rank, 0 for the worse, 0.5 for equal ranks. None where the answer holds no
      such list, or several that disagree.
    """
    shares = {share for found in _LIST.findall(answer) if (share := _share(found)) is not None}
    return shares.pop() if len(shares) == 1 else None


def _share(literal: str) -> float | None:
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
