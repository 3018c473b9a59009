"""The parts of a page under docs/ that a program measures and writes itself."""

import os
import sys
from pathlib import Path


def replace_part(page: Path, name: str, content: str) -> None:
    """Puts `content` between `<!-- name:begin -->` and `<!-- name:end -->`. Ends the program if the page lacks them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        sys.exit(f"{page} has no part to replace: {begin} followed by {end} was expected.")
    fresh = page.with_suffix(".new")
    fresh.write_text(f"{before}{begin}\n{content}\n{end}{after}")
    os.replace(fresh, page)
