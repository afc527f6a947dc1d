"""Insertion of result tables into the README and the documentation."""

import re
from pathlib import Path

_SLOT = re.compile(r"<!-- (?P<file>results/\S+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, root: Path) -> str:
    """Replaces the contents of each slot in a text by the table file that the slot names."""

    def fill(slot: re.Match[str]) -> str:
        table = (root / slot["file"]).read_text(encoding="utf-8").strip()
        return f"<!-- {slot['file']} -->\n{table}\n<!-- end -->"

    return _SLOT.sub(fill, text)
