"""Makes the wandb dashboard that compares methods: ``python scripts/dashboard.py --entity me``."""

import argparse

from experiments.reporting.dashboard import workspace
from scripts.cli import run_command


def main() -> None:
    """Reads the command line, saves the workspace, and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entity", required=True, help="a wandb user or team")
    parser.add_argument("--project", default="smartfrz", help="where the runs were logged to")
    options = parser.parse_args()
    made = workspace(options.entity, options.project)
    try:
        made.save()
    except Exception as error:  # whatever wandb, its server or the network raise
        raise ValueError(
            f"The dashboard can't be saved ({error}). Log in with `wandb login` and name an entity "
            "and a project that exist."
        ) from error
    print(made.url)


if __name__ == "__main__":
    run_command(main)
