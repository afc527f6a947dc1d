"""Runs Table 2 at medium on a GPU for some minutes, the cells that matter most first.

``python -m scripts.gpu_table --minutes 12``. Several processes share the GPU and the runs. What is
not finished in time continues from its last checkpoint when the command is given again.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.cli import run_command

WITH_WEIGHTS = ("efficientnet_lite0", "efficientnet_lite1")
"""Networks whose published weights need no download."""
STAGES: tuple[tuple[str, ...], ...] = (
    ("--models", *WITH_WEIGHTS, "--datasets", "cifar100", "--seeds", "0"),
    ("--models", *WITH_WEIGHTS, "--seeds", "0"),
    ("--models", *WITH_WEIGHTS),
    ("--seeds", "0"),
    (),
)
"""Selections of cells, one after the other."""


def main() -> None:
    """Parses the command line and runs the stages until the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="time for all runs together")
    parser.add_argument("--processes", type=int, default=3, help="processes that share the GPU")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--rehearsal", action="store_true", help="cut all runs short")
    options = parser.parse_args()
    command = [sys.executable, "-m", "scripts.table", "table2", "--scale", "medium"]
    command += ["--results", str(options.results)]
    command += ["--rehearsal"] if options.rehearsal else []
    deadline = time.monotonic() + 60 * options.minutes
    for stage in STAGES:
        if not run_together([*command, *stage], options.processes, deadline):
            print("The time is over. The same command goes on from here.")
            return


def run_together(command: Sequence[str], processes: int, deadline: float) -> bool:
    """Runs a command in several processes, and stops them at a point in time.

    Args:
        command: the command, as a list of arguments.
        processes: how many.
        deadline: the point in time, on the clock of ``time.monotonic``.

    Returns:
        Whether all ended before.

    Raises:
        CalledProcessError: a process failed.
    """
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        for process in started:
            code = process.wait(max(0.0, deadline - time.monotonic()))
            if code:
                raise subprocess.CalledProcessError(code, command)
    except subprocess.TimeoutExpired:
        return False
    finally:
        for process in started:
            process.terminate()
            process.wait()
    return True


if __name__ == "__main__":
    run_command(main)
