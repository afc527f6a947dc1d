"""Collects figures (PDF) and tables (LaTeX) in one folder: ``python -m scripts.paper_figures``."""

import argparse
import shutil
from pathlib import Path

from experiments.errors import UserError
from experiments.reporting.contents import sections
from experiments.spec import SCALES
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, copies the files and prints their paths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    options = parser.parse_args()
    target = options.results / "for-paper"
    if target.exists():
        shutil.rmtree(target)  # a result that does not exist any more must not stay
    copies = {
        source: target / _name(source)
        for section in sections(options.results)
        for source in _files(options.results / section.folder(options.scale))
    }
    if not copies:
        raise UserError(
            f"There are no figures of scale {options.scale} in {options.results}: run, for "
            f"example, make table2 SCALE={options.scale}."
        )
    target.mkdir()
    for source, copy in copies.items():
        shutil.copyfile(source, copy)
    print("\n".join(map(str, copies.values())))


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.pdf"), *folder.glob("*.tex")])


def _name(source: Path) -> str:
    """Returns a name that says what a file shows, such as ``table2-small.tex``."""
    result = source.parent.name
    parts = [result] if source.stem == "table" else [result, source.stem]
    return "-".join(parts) + source.suffix


if __name__ == "__main__":
    run_command(main)
