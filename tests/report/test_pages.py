"""The colours of all pages come from one place, in both schemes."""

import re
from pathlib import Path

from rlhf_jax.report import pages


def test_both_schemes_have_every_colour_and_templates_have_none_of_them():
    assert pages.LIGHT.keys() == pages.DARK.keys()
    assert [f"series-{index}" for index in range(pages.SERIES)] == list(pages.LIGHT)[-pages.SERIES :]
    templates = sorted(Path(pages.__file__).parent.glob("*.html.j2"))
    assert len(templates) == 2
    for template in templates:
        text = template.read_text()
        assert not re.findall(r"#[0-9a-f]{6}\b", text)
        defined = set(re.findall(r"(--[\w-]+):", text)) | {f"--{name}" for name in pages.LIGHT}
        used = set(re.findall(r"var\((--[\w-]+)", text)) - {"--series-"}
        assert used and used <= defined


def test_a_page_gets_the_colours_of_both_schemes():
    page = pages.render("annotation_page.html.j2", config={"title": "", "instructions": ""}, questions_json="[]")
    assert f":root {{ color-scheme: light dark; {pages.variables(pages.LIGHT)} }}" in page
    assert f"@media (prefers-color-scheme: dark) {{ :root {{ {pages.variables(pages.DARK)} }} }}" in page


def test_data_inside_a_page_cannot_end_its_element():
    assert pages.embedded({"text": "</script>"}) == '{"text": "\\u003c/script>"}'
