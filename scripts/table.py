"""Executes and draws a table: ``python -m scripts.table table2 --scale small``."""

import argparse
from pathlib import Path

from experiments.added_rows import KINDS
from experiments.runs.processes import is_main_process
from experiments.spec import SCALES
from experiments.tables.table import Table, make_table, print_dry
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, executes missing runs, draws the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="name of a spec in experiments/specs")
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--models", nargs="+", help="run these models of the table only")
    parser.add_argument("--datasets", nargs="+", help="run these data sets of the table only")
    parser.add_argument("--methods", nargs="+", help="run these methods of the table only")
    parser.add_argument("--seeds", nargs="+", type=int, help="run these seeds of the table only")
    parser.add_argument("--controls", action="store_true", help="add compute-matched controls")
    parser.add_argument("--budget", action="store_true", help="add rows at 60%% of the compute")
    parser.add_argument("--wandb", action="store_true", help="track the runs with wandb")
    parser.add_argument("--fresh", action="store_true", help="run what other code computed again")
    parser.add_argument("--mixed", action="store_true", help="add to runs of other code")
    parser.add_argument("--rehearsal", action="store_true", help="cut all runs short")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    table = Table(
        options.table,
        options.scale,
        options.results,
        options.models,
        options.datasets,
        options.methods,
        options.seeds,
        [kind for kind in KINDS if getattr(options, kind)],
        options.wandb,
        options.fresh,
        options.mixed,
        options.rehearsal,
    )
    if not options.dry:
        make_table(table)
    elif is_main_process():
        print_dry(table)


if __name__ == "__main__":
    run_command(main)
