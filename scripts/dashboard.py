"""Creates the wandb dashboard of all methods: ``python -m scripts.dashboard --entity me``.

``python -m scripts.dashboard --preview results/table2-small`` draws what it shows, without wandb.
"""

import argparse
from pathlib import Path

from experiments.errors import UserError
from experiments.reporting import style
from experiments.reporting.dashboard.preview import preview
from experiments.reporting.dashboard.workspace import workspace
from experiments.runs.run_frame import read_csv
from scripts.cli import run_command


def main() -> None:
    """Parses the command line; saves the workspace and prints its address, or draws a preview."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--entity", help="wandb user or team")
    asked.add_argument("--preview", type=Path, help="folder of a table to draw, without wandb")
    parser.add_argument("--project", default="smartfrz", help="wandb project of the runs")
    options = parser.parse_args()
    if options.preview:
        draw_preview(options.preview)
    else:
        save_workspace(options.entity, options.project)


def draw_preview(folder: Path) -> None:
    """Draws a picture, as PNG and PDF, into the folder ``dashboard`` beside that of a table.

    Raises:
        UserError: the folder holds no table.
    """
    if not (folder / "runs.csv").exists():
        raise UserError(f"{folder} holds no table: it has no runs.csv.")
    picture = folder.parent / "dashboard" / folder.name
    style.save(preview(read_csv(folder / "runs.csv")), picture)
    print(f"{picture}.png")


def save_workspace(entity: str, project: str) -> None:
    """Saves the workspace, and prints its address.

    Raises:
        UserError: wandb refuses.
    """
    made = workspace(entity, project)
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
