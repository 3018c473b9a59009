"""Plots as inline SVG, drawn by matplotlib in the colours of the page (light, dark, print).

Text stays text. Every colour is drawn as a placeholder and becomes a CSS variable: `--ink`, `--rule`, `--series-<i>`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from rlhf_jax.report.pages import LIGHT, SERIES, variables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, _RULE = "#000001", "#000002"
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
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": _RULE,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A figure and the same facts in words.

    Attributes:
      title: unique in a report.
      description: text for a reader who does not see the figure, or the reason if there is nothing to draw.
      svg: an `<svg>` element, or "" if there is nothing to draw.
      remark: a sentence on the reading of the figure or on missing parts, or "".
    """

    title: str
    description: str
    svg: str = ""
    remark: str = ""


def series(index: int) -> str:
    """Returns the placeholder of the page's colour `--series-<index modulo SERIES>`."""
    return f"#0001{index % SERIES:02x}"


def draw_svg(title: str, draw: Callable[[Axes], None], bars: int | None = None) -> str:
    """Draws an `<svg>` element that scales with its box. Its ids contain the title, to be unique in a page."""
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
    """Gives a tag of matplotlib's SVG unique ids, the page's font and colours, and no fixed size."""
    if tag.startswith("<svg"):
        tag = re.sub(r' (width|height)="[^"]*"', "", tag)
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"#0001([0-9a-f]{2})", lambda found: f"var(--series-{int(found[1], 16)})", tag)
    return tag.replace(INK, "var(--ink)").replace(_RULE, "var(--rule)")


def standalone(plot: Plot) -> str:
    """Returns a plot as an SVG file of its own, in the report's light colours and with its description."""
    style = f"<style>svg {{ {variables(LIGHT)} background: var(--page); font-family: sans-serif }}</style>"
    start = plot.svg.index(">") + 1
    return f"{plot.svg[:start]}<title>{escape(plot.description)}</title>{style}{plot.svg[start:]}"
