"""Result tables in the README and the documentation, from the files under results/."""

import re
from pathlib import Path

_SLOT = re.compile(r"<!-- (?P<file>results/\S+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, root: Path) -> str:
    """The text with the tables that its slots name."""

    def fill(slot: re.Match[str]) -> str:
        table = (root / slot["file"]).read_text(encoding="utf-8").strip()
        return f"<!-- {slot['file']} -->\n{table}\n<!-- end -->"

    return _SLOT.sub(fill, text)
