"""Prompts for a language model that compares two outputs."""

import re
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


@dataclass(frozen=True)
class PairwisePrompt:
    """A system and a user message in which `{prompt}`, `{output_1}` and `{output_2}` stand for texts."""

    system: str
    user: str

    def messages(self, prompt: str, output_1: str, output_2: str) -> list[Message]:
        """Returns the messages that show two outputs. The name of a field inside a text stays as it is."""
        texts = dict(zip(_FIELDS, (prompt, output_1, output_2), strict=True))
        user = _FIELD.sub(lambda field: texts[field[1]], self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


def load_prompt(name: str) -> PairwisePrompt:
    """Reads a prompt: a line `[system]` and its message, a line `[user]` and its message with the three fields.

    Args:
      name: a file in `prompts/`, without `.txt`, or the path of another one.

    Raises:
      UserError: the file is missing or has another form.
    """
    known = sorted(path.stem for path in _FOLDER.glob("*.txt"))
    path = _FOLDER / f"{name}.txt" if name in known else Path(name)
    if not path.is_file():
        raise UserError(
            f"The judge's prompt {name!r} does not exist, expected {', '.join(known)} or the path of a file."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}), expected a prompt in it.") from None
    sections = _SECTIONS.fullmatch(text.strip())
    if sections is None:
        raise UserError(f"{path} has no line [system] at its start and line [user] below it, expected both.")
    found = sorted(_FIELD.findall(sections["user"]))
    if found != sorted(_FIELDS):
        raise UserError(
            f"{path} shows the fields {', '.join(found) or 'none'} to the user, "
            f"expected each of {', '.join(_FIELDS)} once, in braces."
        )
    return PairwisePrompt(sections["system"].strip(), sections["user"].strip())
