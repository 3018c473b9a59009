"""Self-contained HTML pages and other texts: templates in this folder, their colours, and data inside a page."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIGHT = {
    "page": "#fdfdfc",
    "raised": "#f4f4f1",
    "ink": "#1d2126",
    "soft": "#5b636d",
    "rule": "#d9dad6",
    "link": "#1f5fa8",
    "series-0": "#2b6cb0",
    "series-1": "#c05b14",
    "series-2": "#22855a",
    "series-3": "#8446a0",
    "series-4": "#b5344a",
    "series-5": "#6b6f2a",
}
DARK = {
    "page": "#14171b",
    "raised": "#1d2126",
    "ink": "#e4e6e8",
    "soft": "#a2a9b2",
    "rule": "#343a42",
    "link": "#86b7ee",
    "series-0": "#74aeea",
    "series-1": "#f0a05c",
    "series-2": "#63c596",
    "series-3": "#c795de",
    "series-4": "#f08797",
    "series-5": "#c3c873",
}
SERIES = sum(name.startswith("series-") for name in LIGHT)


def render(template: str, **values: Any) -> str:
    """Renders a template of this folder. HTML is escaped, and its CSS gets the colours as `light` and `dark`.

    LaTeX calls `tex` to escape a text. An unknown name in a template is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(enabled_extensions=["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"light": variables(LIGHT), "dark": variables(DARK), "tex": _tex}
    return environment.get_template(template).render(**values)


def _tex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)


def variables(colours: Mapping[str, str]) -> str:
    """Returns colours as CSS declarations: `--page: #fdfdfc; ...`."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def embedded(value: Any) -> str:
    """Returns a value as JSON for a `<script>` element. Only "<" could end the data early, so it is escaped."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
