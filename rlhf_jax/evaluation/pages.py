"""Self-contained HTML pages: templates beside this file, and data inside a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder; an unknown name in it is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def embedded(value: Any) -> str:
    """A value as JSON for a `<script>` element, inside which only "<" could end the data early."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
