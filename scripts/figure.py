"""Measures and draws a figure: ``python -m scripts.figure fig3 --scale small``."""

import argparse
from pathlib import Path

from experiments.spec import SCALES
from experiments.studies.figure_plans import FIGURES
from experiments.studies.making import Request, make_figure, print_dry
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, takes missing measurements, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--predictor", help="predictor whose attention is shown (default: bundled)")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    request = Request(options.figure, options.scale, options.results, options.predictor)
    make = print_dry if options.dry else make_figure
    make(request, FIGURES[options.figure])


if __name__ == "__main__":
    run_command(main)
