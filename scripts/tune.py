"""Chooses learning rates and methods' settings: ``python -m scripts.tune --scale small``."""

import argparse
from pathlib import Path

from experiments.runs.processes import is_main_process
from experiments.spec import SCALES
from experiments.tables.table import Table, print_dry
from experiments.tables.tuning import tune
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, executes missing runs, writes the settings that they choose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--models", nargs="+", help="choose for these models only")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    table = Table("tune", options.scale, options.results, options.models)
    if not options.dry:
        tune(table)
    elif is_main_process():
        print_dry(table)


if __name__ == "__main__":
    run_command(main)
