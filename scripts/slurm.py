"""Runs a command as SLURM jobs: ``python -m scripts.slurm --jobs 8 -m scripts.table table2 ...``.

All jobs are the same command. They share its runs, since each run is locked in the cache while a
job executes it. A job that is preempted, or has used up its time, is queued again, and continues
from the last checkpoint.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import run

import submitit

from experiments.errors import UserError
from scripts.cli import run_command

_MOST_TIMEOUTS = 1000
"""How often a job is queued again: without limit, in effect."""


@dataclass(frozen=True)
class Command:
    """A job: a Python command.

    Attributes:
        arguments: those of the Python interpreter.
    """

    arguments: tuple[str, ...]

    def __call__(self) -> None:
        """Runs the command."""
        run([sys.executable, *self.arguments], check=True)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Queues the command again; called when the job is preempted or its time is over."""
        return submitit.helpers.DelayedSubmission(self)


def main() -> None:
    """Parses the command line, submits the jobs and prints their numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=8, help="number of jobs")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of each job, on one node")
    parser.add_argument("--hours", type=float, default=24.0, help="time limit of a job")
    parser.add_argument("--partition", help="partition of the cluster")
    parser.add_argument("-m", dest="command", nargs=argparse.REMAINDER, required=True)
    options = parser.parse_args()
    if shutil.which("sbatch") is None:
        raise UserError("There is no SLURM on this machine: sbatch was not found.")
    jobs = submit(options.command, options.jobs, options.gpus, options.hours, options.partition)
    print(f"Submitted {', '.join(job.job_id for job in jobs)}; logs in {jobs[0].paths.folder}.")


def submit(
    command: Sequence[str],
    count: int,
    gpus: int = 1,
    hours: float = 24.0,
    partition: str | None = None,
    cluster: str = "slurm",
) -> list[submitit.Job]:
    """Submits jobs that share the runs of a command.

    Args:
        command: a module and its arguments.
        count: number of jobs.
        gpus: GPUs of each job; more than one are used by ``torchrun``.
        hours: time limit of a job.
        partition: partition of the cluster; by default the cluster's own.
        cluster: ``slurm``, or ``local`` for processes on this machine.
    """
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    job = Command((*(start if gpus > 1 else ()), "-m", *command))
    executor = submitit.AutoExecutor(
        Path(".slurm"), cluster=cluster, slurm_max_num_timeout=_MOST_TIMEOUTS
    )
    executor.update_parameters(
        name="smartfrz", timeout_min=round(60 * hours), gpus_per_node=gpus, cpus_per_task=8
    )
    if partition is not None:
        executor.update_parameters(slurm_partition=partition)
    return executor.submit_array([job] * count)


if __name__ == "__main__":
    run_command(main)
