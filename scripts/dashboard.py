"""Creates the wandb dashboard of all methods: ``python -m scripts.dashboard --entity me``."""

import argparse

from experiments.errors import UserError
from experiments.reporting.dashboard import workspace
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, saves the workspace, and prints its address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entity", required=True, help="wandb user or team")
    parser.add_argument("--project", default="smartfrz", help="wandb project of the runs")
    options = parser.parse_args()
    made = workspace(options.entity, options.project)
    try:
        made.save()
    except Exception as error:  # wandb, its server and the network raise errors of many types
        raise UserError(
            f"The dashboard cannot be saved ({error}). Log in with `wandb login`, and give an "
            "existing entity and project."
        ) from error
    print(made.url)


if __name__ == "__main__":
    run_command(main)
