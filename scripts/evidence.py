"""Compares convergence predictors on unseen network families: ``python -m scripts.evidence``."""

import argparse
from pathlib import Path

from experiments.evidence.comparing import compare
from experiments.spec import SCALES
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, records missing runs, fits missing predictors, draws the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--families", nargs="+", help="only fit predictors for these test families")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    compare(options.scale, options.results, options.families, options.dry)


if __name__ == "__main__":
    run_command(main)
