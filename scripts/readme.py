"""Puts the result tables that the README names into it: ``python -m scripts.readme``."""

import re
from pathlib import Path

from experiments.results import write_text_atomic
from scripts.cli import run_command

ROOT = Path(__file__).parent.parent
_SLOT = re.compile(r"<!-- (?P<file>results/\S+) -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    """Rewrites the README."""
    readme = ROOT / "README.md"
    write_text_atomic(readme, filled(readme.read_text(encoding="utf-8"), ROOT))


def filled(text: str, root: Path) -> str:
    """The text with the tables that its slots name."""

    def fill(slot: re.Match[str]) -> str:
        table = (root / slot["file"]).read_text(encoding="utf-8").strip()
        return f"<!-- {slot['file']} -->\n{table}\n<!-- end -->"

    return _SLOT.sub(fill, text)


if __name__ == "__main__":
    run_command(main)
