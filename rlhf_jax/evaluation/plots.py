"""The report's plots as inline SVG, drawn by matplotlib in colours that the page decides (light, dark, print).

Text stays text. Every colour is drawn as a placeholder and becomes a CSS variable: `--ink`, `--rule`, `--series-<i>`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from rlhf_jax.evaluation.summary import ID, OOD, Metric, Summary, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {  # on a light page; a dark one has its own
    "ink": "#1d2126",
    "rule": "#d9dad6",
    "series-0": "#2b6cb0",
    "series-1": "#c05b14",
    "series-2": "#22855a",
    "series-3": "#8446a0",
    "series-4": "#b5344a",
    "series-5": "#6b6f2a",
}
SERIES = len(COLOURS) - 2
_INK, _RULE = "#000001", "#000002"
_MARKERS = "osD^vP"
_POINTS = 300
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _RULE,
    "figure.constrained_layout.use": True,
}


type Training = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Plot:
    """A figure and the same facts in words.

    Attributes:
      title: unique in a report.
      description: what a reader who does not see the figure is told; where there is nothing to draw, why.
      svg: an `<svg>` element, or "" where there is nothing to draw.
      remark: what the figure leaves out, as a sentence; "" where it leaves out nothing.
    """

    title: str
    description: str
    svg: str = ""
    remark: str = ""


def series(index: int) -> str:
    """Placeholder of the page's colour `--series-<index modulo SERIES>`."""
    return f"#0001{index % SERIES:02x}"


def diversity_against_win_rate(summary: Summary) -> list[Plot]:
    """One plot a diversity metric: win rate against the reference (x), diversity (y), ID to OOD joined by a line."""
    names = {
        "per_input_ead": "per-input EAD",
        "per_input_sentence_bert": "per-input Sentence-BERT",
        "across_input_ead": "across-input EAD",
        "across_input_sentence_bert": "across-input Sentence-BERT",
    }
    return [_diversity(summary, metric, name) for metric, name in names.items()]


def in_against_out(summary: Summary) -> list[Plot]:
    """Bars of the win rate in distribution and out of distribution, against the reference and head to head."""
    plots = [_bars(summary, "win_rate", "Wins against the reference")]
    if summary.baseline:
        plots.append(_bars(summary, "head_to_head", f"Wins against {summary.baseline}"))
    return plots


def policy_curves(runs: Sequence[Training]) -> list[Plot]:
    """Score and KL over the steps of every stage that logs a KL, a line a run.

    Args:
      runs: for every run, the lines of metrics.jsonl by training stage.
    """
    stages = [stage for stage in runs[0] if _logs_kl(runs, stage)]
    if not stages:
        return [Plot("Reward and KL", "No training metrics log a KL, so there is no policy optimisation to draw.")]
    plots = []
    for stage in stages:
        plots.append(_curves(runs, stage, f"{stage}: reward", "score", {"score": "score"}))
        plots.append(_curves(runs, stage, f"{stage}: KL", "KL, nats", {"kl_k1": "k1", "kl_k3": "k3"}))
    return plots


def frontiers(frontier: Mapping[str, Any], title: str = "Reward against KL") -> list[Plot]:
    """One plot a split of frontier.json (stage `frontier`)."""
    return [
        reward_against_kl(f"{title}, {split}", found["pools"], found["policies"]) for split, found in frontier.items()
    ]


def reward_against_kl(title: str, pools: Mapping[str, Any], policies: Mapping[str, Any]) -> Plot:
    """Best-of-n as lines over n, a policy's steps as points: full at their KL by k1, hollow by k3.

    Args:
      title: of the figure.
      pools: of one split, as in frontier.json.
      policies: the same.
    """

    def draw(axes: Axes) -> None:
        for index, (name, pool) in enumerate(pools.items()):
            kl, reward, error = ([x[key] or 0.0 for x in pool["best_of_n"]] for key in ("kl", "mean", "standard_error"))
            low, high = ([y + sign * e for y, e in zip(reward, error, strict=True)] for sign in (-1, 1))
            label = f"{name}, temperature {pool['temperature']:g}"
            axes.plot(kl, reward, color=series(index), label=label)
            axes.fill_between(kl, low, high, color=series(index), alpha=0.18, linewidth=0)
        for index, (name, points) in enumerate(policies.items(), start=len(pools)):
            reward = [point["score"]["mean"] for point in points]
            axes.plot([p["kl_k1"]["mean"] for p in points], reward, ":", color=series(index), label=name)
            for point in points:
                _point(axes, point["kl_k1"], point["score"], index, filled=True)
                _point(axes, point["kl_k3"], point["score"], index, filled=False)
        axes.set_xlabel("KL, nats a response")
        axes.set_ylabel("score")
        axes.legend()

    told = [f"{name} from {_ends(pool['best_of_n'], 'kl', 'mean')}" for name, pool in pools.items()]
    for name, points in policies.items():
        flat = [{"kl": point["kl_k1"]["mean"], "score": point["score"]["mean"]} for point in points]
        told.append(f"{name} from {_ends(flat, 'kl', 'score')}")
    return Plot(title, f"Score against KL: {'; '.join(told)}.", _svg(title, draw))


def _ends(points: Sequence[Mapping[str, float]], x: str, y: str) -> str:
    return " to ".join(f"{point[y]:.2f} at {point[x]:.2f} nats" for point in (points[0], points[-1]))


def standalone(plot: Plot) -> str:
    """A plot as an SVG file that needs no page around it: the report's light colours, its description for readers."""
    style = "".join(f"--{name}:{colour};" for name, colour in COLOURS.items())
    style = f"<style>svg{{{style}background:#fdfdfc;font-family:sans-serif}}</style>"
    start = plot.svg.index(">") + 1
    return f"{plot.svg[:start]}<title>{escape(plot.description)}</title>{style}{plot.svg[start:]}"


def training_curves(runs: Sequence[Training]) -> list[Plot]:
    """Loss and accuracy, in training and on every evaluation split, of the stages that log no KL; a line a run.

    Args:
      runs: as in `policy_curves`.
    """
    plots = []
    for stage in runs[0]:
        if _logs_kl(runs, stage):
            continue
        logged = sorted({name for run in runs for line in run[stage] for name in line})
        quantities = [name for name in ("loss", "accuracy") if name in {key.rpartition("/")[2] for key in logged}]
        for quantity in quantities:
            names = {quantity: "training"} if quantity in logged else {}
            names |= {key: key.split("/")[1] for key in logged if re.fullmatch(f"eval/[^/]+/{quantity}", key)}
            plots.append(_curves(runs, stage, f"{stage}: {quantity}", quantity, names))
        if not quantities:
            plots.append(Plot(stage, f"The training metrics of {stage} hold no loss and no accuracy to draw."))
    return plots


def _logs_kl(runs: Sequence[Training], stage: str) -> bool:
    return any(name.startswith("kl_k") for run in runs for line in run[stage] for name in line)


def _diversity(summary: Summary, metric: str, name: str) -> Plot:
    title = f"Win rate and {name}"
    points = {
        model: [(row["win_rate"][split], row[metric][split]) for split in (ID, OOD) if _computed(row, metric, split)]
        for model, row in summary.rows.items()
    }
    left_out = [model for model, found in points.items() if not found]
    remark = f"Not computed for {', '.join(left_out)}." if left_out else ""
    if len(left_out) == len(points):
        return Plot(title, f"Not drawn: no model has both a win rate and a {name}.")

    def draw(axes: Axes) -> None:
        for index, (model, found) in enumerate(points.items()):
            axes.plot([x["mean"] for x, _ in found], [y["mean"] for _, y in found], ":", color=series(index))
            for split in (ID, OOD):
                if _computed(summary.rows[model], metric, split):
                    row = summary.rows[model]
                    _point(axes, row["win_rate"][split], row[metric][split], index, filled=split == ID)
        axes.set_xlabel("wins against the reference, %")
        axes.set_ylabel(name)
        axes.margins(0.12)

    told = "; ".join(
        f"{model} " + " then ".join(f"{x['mean']:.1f} % and {y['mean']:.3f}" for x, y in found)
        for model, found in points.items()
        if found
    )
    return Plot(title, f"Wins against the reference and {name}, ID then OOD: {told}.", _svg(title, draw), remark)


def _computed(row: Mapping[str, Mapping[str, Metric]], metric: str, split: str) -> bool:
    return "mean" in row["win_rate"][split] and "mean" in row[metric][split]


def _point(axes: Axes, x: Metric, y: Metric, index: int, filled: bool) -> None:
    axes.errorbar(
        x["mean"],
        y["mean"],
        xerr=x["standard_error"],
        yerr=y["standard_error"],
        fmt=_MARKERS[index % len(_MARKERS)],
        color=series(index),
        markersize=6,
        markerfacecolor=series(index) if filled else "none",
        elinewidth=0.8,
    )


def _bars(summary: Summary, metric: str, title: str) -> Plot:
    shown = {
        model: row[metric]
        for model, row in summary.rows.items()
        if any("mean" in row[metric][part] for part in (ID, OOD))
    }
    if not shown:
        return Plot(title, f"Not drawn: no model has {title.lower()} computed.")

    def draw(axes: Axes) -> None:
        for place, model in enumerate(shown):
            index = list(summary.rows).index(model)
            for offset, split, opacity in ((-0.19, ID, 1.0), (0.19, OOD, 0.45)):
                value = shown[model][split]
                if "mean" in value:
                    axes.barh(place + offset, value["mean"], 0.34, color=series(index), alpha=opacity, linewidth=0)
                    axes.errorbar(
                        value["mean"], place + offset, xerr=value["standard_error"], color=_INK, elinewidth=0.9
                    )
        axes.axvline(50, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(shown)), list(shown))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"{title.lower()}, %")

    told = "; ".join(
        f"{model} {label} {parts[split]['mean']:.1f} %"
        for model, parts in shown.items()
        for split, label in ((ID, "ID"), (OOD, "OOD"))
        if "mean" in parts[split]
    )
    return Plot(title, f"{title}, bars with standard errors, a tie at 50 %: {told}.", _svg(title, draw, len(shown)))


def _curves(runs: Sequence[Training], stage: str, title: str, quantity: str, names: Mapping[str, str]) -> Plot:
    lines = {label: [found for run in runs if (found := values(run[stage], name))] for name, label in names.items()}
    lines = {label: found for label, found in lines.items() if found}
    if not lines:
        return Plot(title, f"Not drawn: the training metrics of {stage} hold no {quantity}.")

    def draw(axes: Axes) -> None:
        for index, (label, found) in enumerate(lines.items()):
            for run, points in enumerate(found):
                steps, numbers = zip(*_binned(points), strict=True)
                axes.plot(
                    steps,
                    numbers,
                    color=series(index),
                    alpha=1.0 if len(found) == 1 else 0.7,
                    marker="o" if len(steps) <= 20 else "",
                    markersize=3,
                    label=label if run == 0 else "_",
                )
        axes.set_xlabel("step")
        axes.set_ylabel(quantity)
        if len(lines) > 1:
            axes.legend()

    told = "; ".join(
        f"{label} from {found[0][0][1]:.4g} at step {found[0][0][0]} to {found[0][-1][1]:.4g} at step {found[0][-1][0]}"
        for label, found in lines.items()
    )
    several = " (the first run's numbers)" if len(runs) > 1 else ""
    return Plot(title, f"{quantity[0].upper()}{quantity[1:]} over steps{several}: {told}.", _svg(title, draw))


def _binned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS` points, each the mean of as many neighbours: a long run would make the page heavy."""
    size = -(-len(points) // _POINTS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(step for step, _ in found) / len(found), sum(y for _, y in found) / len(found)) for found in bins]


def _svg(title: str, draw: Callable[[Axes], None], bars: int | None = None) -> str:
    """An `<svg>` element whose ids carry the title, so that many fit one page, and that scales with its box."""
    from matplotlib.figure import Figure
    from matplotlib.style import context

    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    height = 2.5 if bars is None else 0.75 + 0.5 * bars
    with context(["default", {**_STYLE, "svg.hashsalt": name}]):
        figure = Figure(figsize=(3.7, height))
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r"<[^>]+>", lambda tag: _for_page(tag[0], name), svg)


def _for_page(tag: str, name: str) -> str:
    """One tag of matplotlib's SVG with ids of its own, the page's font and colours, and no fixed size."""
    if tag.startswith("<svg"):
        tag = re.sub(r' (width|height)="[^"]*"', "", tag)
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"#0001([0-9a-f]{2})", lambda found: f"var(--series-{int(found[1], 16)})", tag)
    return tag.replace(_INK, "var(--ink)").replace(_RULE, "var(--rule)")
