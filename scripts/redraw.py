"""Redraws tables from their run files, without data sets: ``python -m scripts.redraw FOLDER``."""

import argparse
from pathlib import Path

from experiments.tables.files import redraw
from scripts.cli import run_command


def main() -> None:
    """Parses the command line and draws the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="for example results/table2-small")
    for folder in parser.parse_args().folders:
        redraw(folder, folder.parent / "runs", folder)
        print(folder)


if __name__ == "__main__":
    run_command(main)
