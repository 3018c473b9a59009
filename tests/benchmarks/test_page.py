"""Only the marked part of a page is rewritten."""

import pytest

from benchmarks.page import replace_part


def test_replacing_a_part_leaves_the_rest_of_the_page(tmp_path):
    page = tmp_path / "page.md"
    text = "before\n<!-- a:begin -->\n{}\n<!-- a:end -->\n<!-- b:begin -->\nkept\n<!-- b:end -->\n"
    page.write_text(text.format("old"))
    for content in ("new", "newer"):
        replace_part(page, "a", content)
    assert page.read_text() == text.format("newer")
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize("text", ["", "<!-- a:end --><!-- a:begin -->", "<!-- b:begin --><!-- b:end -->"])
def test_a_page_without_the_markers_is_refused_and_left_alone(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(SystemExit, match="page.md has no part to replace: <!-- a:begin --> followed by"):
        replace_part(page, "a", "new")
    assert page.read_text() == text
