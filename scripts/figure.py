"""Makes a figure of single layers: ``python -m scripts.figure fig3 --scale small``."""

import argparse
from pathlib import Path

from experiments.spec import SCALES
from experiments.studies.figure_plans import FIGURES
from experiments.studies.making import Request, make_figure, print_dry
from scripts.cli import run_command


def main() -> None:
    """Reads the command line, measures what is missing, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--predictor", help="whose attention it is; by default the bundled one's")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    request = Request(options.figure, options.scale, options.results, options.predictor)
    make = print_dry if options.dry else make_figure
    make(request, FIGURES[options.figure])


if __name__ == "__main__":
    run_command(main)
