"""Records runs and trains the bundled predictors on them: ``python -m scripts.predictor``."""

import argparse
from pathlib import Path

from experiments.predictor.making import BUNDLED, make_bundled, print_dry
from experiments.spec import SCALES
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, records missing runs, trains predictors, writes model cards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--label", default="cka", choices=BUNDLED, help="what is predicted")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--output", type=Path, required=True, help="folder for the predictors")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    make = print_dry if options.dry else make_bundled
    make(options.scale, options.results, options.output, options.label)


if __name__ == "__main__":
    run_command(main)
