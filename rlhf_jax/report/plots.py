"""The plots of the report, each with the same facts in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_jax.report.study import ID, OOD
from rlhf_jax.report.summary import DIVERSITY, Metric, Row, Summary, values
from rlhf_jax.report.svg import INK, Plot, draw_svg, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP"
_POINTS = 300
_LARGEST_MARK = 120  # area, in square points

type Training = Mapping[str, Sequence[Mapping[str, Any]]]


def diversity_against_win_rate(summary: Summary) -> list[Plot]:
    """Draws one plot per diversity metric: win rate against the reference (x), diversity (y), a line from ID to OOD."""
    return [_diversity(summary, metric, name) for metric, name in DIVERSITY.items()]


def in_against_out(summary: Summary) -> list[Plot]:
    """Draws win rates in and out of distribution as bars, against the reference and head to head."""
    plots = [_bars(summary, "win_rate", "Wins against the reference")]
    if summary.baseline:
        plots.append(_bars(summary, "head_to_head", f"Wins against {summary.baseline}"))
    return plots


def policy_curves(runs: Sequence[Training]) -> list[Plot]:
    """Draws score and KL over the steps of every stage that logs a KL, one line per run.

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


def reward_vs_kl_plots(found_by_split: Mapping[str, Any], title: str, models: Sequence[str] = ()) -> list[Plot]:
    """Draws one plot per split of reward_vs_kl.json. A pool or policy named in `models` has that model's colour."""
    return [
        _reward_against_kl(f"{title}, {split}", found["pools"], found["policies"], models)
        for split, found in found_by_split.items()
    ]


def _reward_against_kl(
    title: str, pools: Mapping[str, Any], policies: Mapping[str, Any], models: Sequence[str]
) -> Plot:
    """Draws best-of-n as lines over n, and the steps of a policy as points: full at their k1, hollow at their k3."""
    index = {name: place for place, name in enumerate(dict.fromkeys([*models, *pools, *policies]))}

    def draw(axes: Axes) -> None:
        for name, pool in pools.items():
            kl, reward, error = ([x[key] or 0.0 for x in pool["best_of_n"]] for key in ("kl", "mean", "standard_error"))
            low, high = ([y + sign * e for y, e in zip(reward, error, strict=True)] for sign in (-1, 1))
            label = f"{name}, temperature {pool['temperature']:g}"
            axes.plot(kl, reward, color=series(index[name]), label=label)
            axes.fill_between(kl, low, high, color=series(index[name]), alpha=0.18, linewidth=0)
        for name, points in policies.items():
            reward = [point["score"]["mean"] for point in points]
            axes.plot([p["kl_k1"]["mean"] for p in points], reward, ":", color=series(index[name]), label=name)
            for point in points:
                _point(axes, point["kl_k1"], point["score"], index[name], filled=True)
                _point(axes, point["kl_k3"], point["score"], index[name], filled=False)
        axes.set(xlabel="KL, nats per response", ylabel="score")
        axes.figure.legend(loc="outside upper left", ncols=2)  # above, because lines and points leave no free corner

    words = [f"{name} from {_ends(pool['best_of_n'], 'kl', 'mean')}" for name, pool in pools.items()]
    for name, points in policies.items():
        flat = [{"kl": point["kl_k1"]["mean"], "score": point["score"]["mean"]} for point in points]
        words.append(f"{name} from {_ends(flat, 'kl', 'score')}")
    return Plot(title, f"Score against KL: {'; '.join(words)}.", draw_svg(title, draw))


def _ends(points: Sequence[Mapping[str, float]], x: str, y: str) -> str:
    return " to ".join(f"{point[y]:.2f} at {point[x]:.2f} nats" for point in (points[0], points[-1]))


def training_curves(runs: Sequence[Training]) -> list[Plot]:
    """Draws loss and accuracy, in training and on every evaluation split, of the stages that log no KL.

    Every run is a line.

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


def reliability(quality: Mapping[str, Any], title: str) -> list[Plot]:
    """Draws the reliability diagram of each split of quality.json (stage `reward`).

    A mark is a bin of confidence (Guo et al., 2017).
    """
    return [_reliability(f"{title}, {split}", found) for split, found in quality.items()]


def _logs_kl(runs: Sequence[Training], stage: str) -> bool:
    return any(name.startswith("kl_k") for run in runs for line in run[stage] for name in line)


def _reliability(title: str, found: Mapping[str, Any]) -> Plot:
    confidence, right, pairs = (
        [entry[key] for entry in found["calibration"]] for key in ("confidence", "accuracy", "n")
    )

    def draw(axes: Axes) -> None:
        areas = [_LARGEST_MARK * n / max(pairs) for n in pairs]
        axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.scatter(confidence, right, areas, color=series(0), linewidth=0, clip_on=False, zorder=3)
        axes.set(xlabel="confidence of the reward model", ylabel="fraction of pairs right", xlim=(0.5, 1), ylim=(0, 1))

    words = "; ".join(f"{y:.2f} of {n} at {x:.2f}" for x, y, n in zip(confidence, right, pairs, strict=True))
    error = f"the calibration error is {found['calibration_error']:.3f}"
    remark = "A mark's area is its number of pairs; on the dashed line the confidence is the fraction that is right."
    return Plot(title, f"Fraction of pairs right at each confidence, {error}: {words}.", draw_svg(title, draw), remark)


def _diversity(summary: Summary, metric: str, name: str) -> Plot:
    title = f"Win rate and {name}"

    def computed(row: Row) -> dict[str, tuple[Metric, Metric]]:
        both = {split: (row["win_rate"][split], row[metric][split]) for split in (ID, OOD)}
        return {split: (x, y) for split, (x, y) in both.items() if "mean" in x and "mean" in y}

    points = {model: computed(row) for model, row in summary.rows.items()}
    left_out = [model for model, found in points.items() if not found]
    remark = f"Not computed for {', '.join(left_out)}." if left_out else ""
    if len(left_out) == len(points):
        return Plot(title, f"Not drawn: no model has both a win rate and a {name}.")

    def draw(axes: Axes) -> None:
        for index, found in enumerate(points.values()):
            x_means, y_means = ([both[axis]["mean"] for both in found.values()] for axis in (0, 1))
            axes.plot(x_means, y_means, ":", color=series(index))
            for split, (x, y) in found.items():
                _point(axes, x, y, index, filled=split == ID)
        axes.set(xlabel="wins against the reference, %", ylabel=name)
        axes.margins(0.12)

    words = "; ".join(
        f"{model} " + " then ".join(f"{x['mean']:.1f} % and {y['mean']:.3f}" for x, y in found.values())
        for model, found in points.items()
        if found
    )
    return Plot(title, f"Wins against the reference and {name}, ID then OOD: {words}.", draw_svg(title, draw), remark)


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
                    # A bar of 0 % has no area. Its end is seen.
                    end = {"markersize": 11, "markeredgewidth": 3, "clip_on": False, "zorder": 3}
                    axes.plot(value["mean"], place + offset, "|", color=series(index), **end)
                    axes.errorbar(
                        value["mean"], place + offset, xerr=value["standard_error"], color=INK, elinewidth=0.9
                    )
        axes.axvline(50, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(shown)), list(shown))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set(xlabel=f"{title.lower()}, %", xlim=(0, 100))

    words = "; ".join(
        f"{model} {label} {parts[split]['mean']:.1f} %"
        for model, parts in shown.items()
        for split, label in ((ID, "ID"), (OOD, "OOD"))
        if "mean" in parts[split]
    )
    return Plot(
        title, f"{title}, bars with standard errors, a tie at 50 %: {words}.", draw_svg(title, draw, len(shown))
    )


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
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="step", ylabel=quantity)
        if len(lines) > 1:
            axes.legend()

    words = "; ".join(
        f"{label} from {found[0][0][1]:.4g} at step {found[0][0][0]} to {found[0][-1][1]:.4g} at step {found[0][-1][0]}"
        for label, found in lines.items()
    )
    several = " (the first run's numbers)" if len(runs) > 1 else ""
    return Plot(title, f"{quantity[0].upper()}{quantity[1:]} over steps{several}: {words}.", draw_svg(title, draw))


def _binned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Returns at most `_POINTS` points, means of neighbours, to keep the page small."""
    size = -(-len(points) // _POINTS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(step for step, _ in found) / len(found), sum(y for _, y in found) / len(found)) for found in bins]
