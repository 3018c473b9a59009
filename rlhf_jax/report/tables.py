"""Tables of the report: their columns and cells, and a renderer for a console."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rlhf_jax.report.study import ID, OOD
from rlhf_jax.report.summary import DIVERSITY, Metric, Row, Summary

_GAP = "  "
WIDTH = 120  # columns of a console


@dataclass(frozen=True)
class Column:
    """One number per model, or its interval: `rows[model][metric][part]`, under `name` in the group `group`."""

    group: str
    name: str
    metric: str
    part: str
    decimals: int
    signed: bool = False
    interval: bool = False


_JUDGE = (
    Column("comparisons", "all", "comparisons", "matches", 0),
    Column("comparisons", "equal", "comparisons", "identical", 0),
    Column("answers", "all", "answers", "answers", 0),
    Column("answers", "ties", "answers", "ties", 0),
    Column("answers", "again", "answers", "reminded", 0),
    Column("answers", "unread", "answers", "unparsable", 0),
    Column("verdicts, %", "first", "consistency", "first_shown_wins", 1),
    Column("verdicts, %", "orders", "consistency", "order_consistency", 1),
    Column("verdicts, %", "repeats", "consistency", "self_consistency", 1),
    Column("tokens", "in", "spent", "prompt_tokens", 0),
    Column("tokens", "out", "spent", "answer_tokens", 0),
    Column("cost", "USD", "spent", "usd", 2),
)
_OF_JUDGE = (
    "equal: the two texts are the same, so nothing was asked; again: could not be read and was asked once more; "
    "unread: could not be read then either, a tie; first: wins of the output shown first, 50 % without position bias; "
    "orders, repeats: how often both orders, and repeats of one question, have the same verdict."
)


@dataclass(frozen=True)
class Cell:
    """A number or interval as text, its standard error or "", or the number of a footnote."""

    mean: str = ""
    error: str = ""
    footnote: int = 0

    def __str__(self) -> str:
        if self.footnote:
            return f"- [{self.footnote}]"
        return f"{self.mean}±{self.error}" if self.error else self.mean


@dataclass(frozen=True)
class Table:
    """Cells by model, in the order of the columns. Footnote i is at index i - 1. A note explains the columns."""

    title: str
    columns: tuple[Column, ...]
    rows: dict[str, list[Cell]]
    footnotes: list[str]
    note: str = ""

    def groups(self) -> list[tuple[str, int]]:
        """Returns the header cells above the columns: group and number of columns."""
        return [(group, len(list(columns))) for group, columns in groupby(self.columns, lambda column: column.group)]

    def below(self) -> list[str]:
        """Returns the lines below the rows: the note, if there is one, and the footnotes."""
        footnotes = [f"[{number}] not computed: {reason}" for number, reason in enumerate(self.footnotes, start=1)]
        return [self.note, *footnotes] if self.note else footnotes


def make_tables(summary: Summary) -> list[Table]:
    """Makes tables of win rates, reward and KL, further win rates, diversity, texts and the reward model.

    Diversity by inference and the reward model have no table if it would be empty.
    """
    baseline = summary.baseline or "baseline"
    wins = [
        *_splits("wins against the reference, %", "win_rate", 1),
        Column("wins against the reference, %", "gap", "win_rate", "gap", 1, signed=True),
        *_splits(f"wins against {baseline}, %", "head_to_head", 1),
        *_splits("reward", "reward", 2),
        Column(f"KL to {baseline}, nats", "k1", "kl", "k1", 2),
        Column(f"KL to {baseline}, nats", "k3", "kl", "k3", 2),
    ]
    further = [
        *_LENGTH_CONTROLLED,
        Column("gap", "95 % interval", "win_rate", "gap", 1, signed=True, interval=True),
        *_splits("strength, log-odds", "strength", 2),
    ]
    texts = [
        *_splits("ROUGE-L", "rouge_l", 3),
        *_splits("length, words", "length", 1),
        *_splits("copied 4-grams, fraction", "copied", 2),
        *_splits("finished, fraction", "finished", 2),
    ]
    held_out = list(next(iter(summary.reward_models.values()), {}).get("accuracy", ()))
    judging = [
        *(Column("pairs right, %", split, "accuracy", split, 1) for split in held_out),
        *(Column("calibration error", split, "calibration_error", split, 3) for split in held_out),
    ]
    return [
        _table("Win rates, reward and KL", wins, summary.rows),
        _table("Win rates at equal length, gaps and ranking", further, summary.rows),
        *(_table(title, columns, summary.rows) for title, columns in _diversity(summary).items()),
        _table("Texts", texts, summary.rows),
        *([_table("Reward model", judging, summary.reward_models)] if judging else []),
    ]


def wide_tables(summary: Summary) -> list[Table]:
    """Makes tables too wide for a console: 95 % intervals, and a language model as the judge."""
    intervals = [
        _table(f"{title}, 95 % intervals", [replace(column, interval=True) for column in columns], summary.rows)
        for title, columns in _diversity(summary).items()
    ]
    judge = _table("Language model as the judge", _JUDGE, summary.judging, _OF_JUDGE)
    columns = [replace(column, interval=True) for column in _LENGTH_CONTROLLED]
    wins = _table("Win rates at equal length, 95 % intervals", columns, summary.rows)
    return [wins, *intervals, judge] if summary.judging else [wins, *intervals]


def _diversity(summary: Summary) -> dict[str, list[Column]]:
    """Returns columns by the title of their table."""
    inference = [*_splits("per-input NLI", "per_input_nli", 3), *_splits("across-input NLI", "across_input_nli", 3)]
    inferred = any("mean" in row[column.metric][column.part] for row in summary.rows.values() for column in inference)
    diversity = [column for metric, name in DIVERSITY.items() for column in _splits(name, metric, 3)]
    return {"Diversity": diversity, **({"Diversity by inference": inference} if inferred else {})}


def _splits(group: str, metric: str, decimals: int) -> list[Column]:
    return [Column(group, "ID", metric, ID, decimals), Column(group, "OOD", metric, OOD, decimals)]


_LENGTH_CONTROLLED = _splits("length-controlled wins against the reference, %", "length_controlled", 1)


def meaning_of_errors(summary: Summary) -> str:
    """Returns a sentence about the meaning of ± in every table and plot."""
    if summary.runs == 1:
        return "± is one standard error over prompts; one run, so the spread between seeds is not in it."
    from scipy.stats import t

    factor = t.ppf(0.975, summary.runs - 1)
    return (
        f"Means over {summary.runs} seeds; ± is one standard error over seeds, and {factor:.1f} times that is a 95 % t "
        "interval, on the scale of log-odds or logarithms for what has bounds."
    )


def console(table: Table) -> str:
    """Renders aligned plain text with a two-line header and the footnotes below."""
    names = ["model", *table.rows]
    first = max(map(len, names))
    widths = [
        max(len(column.name), *(len(str(cells[index])) for cells in table.rows.values()))
        for index, column in enumerate(table.columns)
    ]
    header, start = " " * first, 0
    for group, count in table.groups():
        end = start + count
        room = sum(widths[start:end]) + len(_GAP) * (count - 1)
        widths[start] += max(0, len(group) - room)
        header += _GAP + group.rjust(max(room, len(group)))
        start = end
    lines = [
        table.title,
        header,
        _line("model".ljust(first), [column.name for column in table.columns], widths),
        *(_line(name.ljust(first), map(str, cells), widths) for name, cells in table.rows.items()),
        *(part for line in table.below() for part in textwrap.wrap(line, WIDTH, subsequent_indent="    ")),
    ]
    return "\n".join(lines)


def _table(title: str, columns: Sequence[Column], of_rows: Mapping[str, Row], note: str = "") -> Table:
    footnotes: list[str] = []

    def cell(metric: Metric, column: Column) -> Cell:
        reason = metric.get("not_computed", "")
        if column.interval and not reason and not metric.get("interval"):
            reason = "its stage computed no interval"
        if reason:
            if reason not in footnotes:
                footnotes.append(reason)
            return Cell(footnote=footnotes.index(reason) + 1)
        sign = "+" if column.signed else ""

        def text(value: float) -> str:
            return f"{value:{sign}z.{column.decimals}f}"

        if column.interval:
            return Cell(f"[{', '.join(map(text, metric['interval']))}]")
        error = metric["standard_error"]
        return Cell(text(metric["mean"]), "" if error is None else f"{error:.{column.decimals}f}")

    rows = {
        model: [cell(row[column.metric][column.part], column) for column in columns] for model, row in of_rows.items()
    }
    return Table(title, tuple(columns), rows, footnotes, note)


def _line(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join([name, *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
