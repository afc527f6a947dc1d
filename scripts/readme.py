"""Puts the result tables that the README names into it: ``python -m scripts.readme``."""

import re
from collections.abc import Iterable, Iterator
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
    """The text with the tables that its slots name, without the rows of what was not run."""

    def fill(slot: re.Match[str]) -> str:
        lines = (root / slot["file"]).read_text(encoding="utf-8").strip().splitlines()
        kept = "\n".join(without_missing(lines))
        return f"<!-- {slot['file']} -->\n{kept}\n<!-- end -->"

    return _SLOT.sub(fill, text)


def without_missing(lines: Iterable[str]) -> Iterator[str]:
    """The lines but for rows of what was not run; the words that open a group stay."""
    opening: dict[int, str] = {}
    for line in lines:
        cells = line.split("|")
        if "| not run (0/" in line:
            opening |= {i: cell for i, cell in enumerate(cells[:3]) if cell.strip()}
            continue
        if line.startswith("|"):
            cells = [cell if cell.strip() else opening.get(i, cell) for i, cell in enumerate(cells)]
            opening = {}
        yield "|".join(cells)


if __name__ == "__main__":
    run_command(main)
