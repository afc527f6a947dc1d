"""Shows the run in a checkpoint: ``python -m smartfrz.inspect CHECKPOINT [--plot FILE]``."""

import argparse
from pathlib import Path

from smartfrz.inspect import load_run, plot, table


def main() -> None:
    """Prints the table, and writes the picture where that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m smartfrz.inspect", description="Shows what a run froze when."
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a file or folder that contains the state of a Freezer"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draws the run, as PNG or PDF")
    args = parser.parse_args()
    try:
        run = load_run(args.checkpoint)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(table(run))
    if args.plot is not None:
        plot(run).savefig(args.plot)


if __name__ == "__main__":
    main()
