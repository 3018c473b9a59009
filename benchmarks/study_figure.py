"""Draws a study's result as one figure: win rates in and out of distribution, and diversity against win rate.

    python benchmarks/study_figure.py docs/study.json docs/study.svg
    python benchmarks/study_figure.py runs/quickstart/report/report.json figure.svg

The input is a `report.json`, or a file with its key `models`.
"""

import json
import re
import sys
from html import escape
from pathlib import Path

from rlhf_jax.report.pages import LIGHT, variables
from rlhf_jax.report.plots import diversity_against_win_rate, in_against_out
from rlhf_jax.report.summary import Summary

WIDTH, HEIGHT, TOP = 270, 190, 44  # of a panel and of its heading, in points


def main(source: str, target: str) -> None:
    """Writes the SVG file `target`, drawn by the report's own plots from the rows in `source`."""
    rows = json.loads(Path(source).read_text(encoding="utf-8"))["models"]
    missing = {"not_computed": "not in the file"}
    for row in rows.values():
        for metric in ("per_input_sentence_bert", "across_input_ead", "across_input_sentence_bert"):
            row.setdefault(metric, {"id_test": missing, "ood_test": missing})
    summary = Summary(rows, {}, {}, baseline="", judges=(), encoder="", runs=1)
    bars, points = in_against_out(summary)[0], diversity_against_win_rate(summary)[0]
    panels = [
        (bars, "Generalisation", "wins against the reference: solid in distribution, pale out of it"),
        (points, "Diversity", "per-input EAD over wins: full in distribution, hollow out of it"),
    ]
    body = "".join(_panel(plot.svg, heading, note, index) for index, (plot, heading, note) in enumerate(panels))
    described = escape(" ".join(plot.description for plot, *_ in panels))
    Path(target).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH + 30} {HEIGHT + TOP + 8}">'
        f"<title>{described}</title>"
        f"<style>svg {{ {variables(LIGHT)} font-family: sans-serif }}</style>"
        f'<rect width="100%" height="100%" rx="6" fill="{LIGHT["page"]}"/>{body}</svg>\n',
        encoding="utf-8",
    )


def _panel(svg: str, heading: str, note: str, index: int) -> str:
    """A plot of the report, placed below its heading."""
    x = 10 + index * (WIDTH + 10)
    placed = re.sub(r"^<svg ", f'<svg x="{x}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" ', svg)
    return (
        f'<text x="{x + 4}" y="20" font-size="12" font-weight="bold" fill="{LIGHT["ink"]}">{heading}</text>'
        f'<text x="{x + 4}" y="35" font-size="8" fill="{LIGHT["soft"]}">{note}</text>{placed}'
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
