"""New instructions that a language model makes up from examples: the requests, and the filter of its answers.

After Self-Instruct (Wang et al., 2023) in Alpaca's form, as the study made its ID test set and Sequential Instructions.
The requests and the seed tasks are this project's own.
"""

import functools
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlhf_jax.data.records import read_objects
from rlhf_jax.data.texts import is_unicode
from rlhf_jax.errors import UserError

Kind = Literal["alpaca_farm_id_test", "sequential_instructions"]
"""The test set, by its name in `sources.table`, that new tasks are for."""

MAX_SIMILARITY = 0.7
SHORTEST = 4  # words of an instruction
LONGEST = {"alpaca_farm_id_test": 150}  # the study set no such limit for the other kind
HAS_INPUT = {"alpaca_farm_id_test": True, "sequential_instructions": False}
# What a model that reads and writes text cannot see, make or reach.
NOT_TEXT = (
    *("image", "images", "picture", "pictures", "graph", "graphs", "map", "maps", "diagram", "flowchart", "plot"),
    *("draw", "video", "audio", "music", "file", "files", "go to"),
)

_FOLDER = Path(__file__).parent / "seed_tasks"
_SEPARATOR = "###"
_BETWEEN = re.compile(rf"^{_SEPARATOR}[ \t]*(?=$|\d+\.)", re.MULTILINE)  # no heading inside an output
_NO_INPUT = "<noinput>"
_MARK = re.compile(r"^[ \t]*(\d+)\.\s*(Instruction|Input|Output):", re.MULTILINE)
_NOT_TEXT = re.compile(rf"\b({'|'.join(NOT_TEXT)})\b", re.IGNORECASE)


class Task(NamedTuple):
    """An instruction, the input that it is about or "", and an answer."""

    instruction: str
    input: str
    output: str

    def joined(self) -> str:
        """The instruction with its input inside, as the test sets write it."""
        return f"{self.instruction}\n\n### Input:\n{self.input}" if self.input else self.instruction


def seed_tasks(kind: Kind, file: str = "") -> list[Task]:
    """The tasks that a model is shown as examples.

    `file` is JSONL with `instruction`, `input` and `output`, the latter two perhaps in the first of `instances`, as in
    Self-Instruct's files. "" for this project's own.

    Raises:
      UserError: the file is missing, or a line has no such fields.
    """
    path = Path(file) if file else _FOLDER / f"{kind}.jsonl"
    return [_seed_task(path, line, row) for line, row in enumerate(read_objects(path), start=1)]


def _seed_task(path: Path, line: int, row: dict[str, Any]) -> Task:
    instances = row.get("instances")
    fields = {**row, **instances[0]} if instances else row
    texts = [fields.get(name) for name in Task._fields]
    if not all(isinstance(text, str) and is_unicode(text) for text in texts):
        raise UserError(
            f"{path}:{line} has {', '.join(row)}, expected the texts {', '.join(Task._fields)}, in valid Unicode."
        )
    return Task(*texts)


def request(kind: Kind, shown: Sequence[Task]) -> str:
    """The text that asks for more tasks, after some that are shown: numbered, in the form that `Collection` reads."""
    blocks = [(_FOLDER / f"{kind}.txt").read_text("utf-8")]
    for number, task in enumerate(shown, start=1):
        given = f"{number}. Input:\n{task.input or _NO_INPUT}\n" if HAS_INPUT[kind] else ""
        blocks.append(f"{number}. Instruction: {task.instruction}\n{given}{number}. Output:\n{task.output}\n")
    return f"{_SEPARATOR}\n".join([*blocks, f"{len(shown) + 1}. Instruction:"])


@dataclass
class Collection:
    """Tasks that were kept, each unlike all that came before it, the seed tasks included."""

    kind: Kind
    seeds: Sequence[Task]
    kept: list[Task] = field(default_factory=list)  # in the order in which they came
    left_out: Counter[str] = field(default_factory=Counter)  # number of tasks that were not kept, by the reason

    def add(self, answer: str, cut: bool) -> None:
        """Keeps the good tasks of a model's answer to `request`, but not the last one if a length limit `cut` it."""
        blocks = [block for block in _BETWEEN.split(answer) if block.strip()]
        if cut and blocks:
            blocks.pop()
            self.left_out["cut"] += 1
        for index, block in enumerate(blocks):
            task = self._read(block, goes_on=index == 0)
            reason = "form" if task is None else self._fault(task)
            if reason:
                self.left_out[reason] += 1
            else:
                self.kept.append(task)

    def _read(self, block: str, goes_on: bool) -> Task | None:
        """The task in a block, None where the block has another form.

        The first one may go on where the request ended, behind "Instruction:".
        """
        before, *parts = _MARK.split(block)
        numbers, names, texts = parts[::3], parts[1::3], [text.strip() for text in parts[2::3]]
        if goes_on and names[:1] != ["Instruction"]:
            numbers, names, texts = [*numbers[:1], *numbers], ["Instruction", *names], [before.strip(), *texts]
        expected = [name.capitalize() for name in Task._fields if name != "input" or HAS_INPUT[self.kind]]
        if names != expected or len(set(numbers)) != 1:
            return None
        instruction, *given, output = texts
        if not instruction or not output:
            return None
        return Task(instruction, "".join(text for text in given if text.lower() != _NO_INPUT), output)

    def _fault(self, task: Task) -> str | None:
        """Why a task is not kept, None if it is: the study's filters, in its code's order."""
        words = len(task.instruction.split())
        if words < SHORTEST:
            return "short"
        if words > LONGEST.get(self.kind, words):
            return "long"
        if _NOT_TEXT.search(task.instruction):
            return "not text"
        if task.instruction.startswith("Write a program"):
            return "program"
        if task.instruction[0] in string.punctuation or not task.instruction[0].isascii():
            return "first letter"
        if "https" in "".join(task):
            return "link"
        if any(similarity(task.instruction, old.instruction) > MAX_SIMILARITY for old in (*self.seeds, *self.kept)):
            return "similar"
        return None


def similarity(first: str, second: str) -> float:
    """ROUGE-L F-measure of two instructions (Lin, 2004), without stemming, in [0, 1]."""
    return float(_scorer().score(first, second)["rougeL"].fmeasure)


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)
