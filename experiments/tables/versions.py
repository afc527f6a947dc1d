"""Runs of other code than the present: they are not mixed with new ones unless the user says so."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.runs.execute import code_of, run_file
from experiments.runs.provenance import code_hash


def of_other_code(configs: Iterable[RunConfig], runs: Path) -> list[RunConfig]:
    """Returns the finished runs that other code than the present computed.

    Args:
        configs: runs, finished or not.
        runs: the folder of the run files.
    """
    return [c for c in configs if code_of(run_file(c, runs)) not in (None, code_hash())]


def describe(others: Sequence[RunConfig], runs: Path) -> str:
    """Describes finished runs of other code: how many, which code, and an example."""
    codes = Counter(code_of(run_file(config, runs)) for config in others)
    listed = ", ".join(f"{code} ({number})" for code, number in sorted(codes.items(), key=str))
    return (
        f"{len(others)} finished run{'s are' if len(others) > 1 else ' is'} of other code than the "
        f"present, {code_hash()}: {listed}; for example {others[0].cell}."
    )


def check_may_mix(others: Sequence[RunConfig], runs: Path) -> None:
    """Refuses to add runs of the present code to those of other code.

    Args:
        others: finished runs of other code.
        runs: the folder of the run files.

    Raises:
        UserError: there are such runs.
    """
    if others:
        raise UserError(
            f"{describe(others, runs)} New runs may not be comparable with them. FRESH=1 "
            "(--fresh) executes them again; MIXED=1 (--mixed) keeps them, and the table says so."
        )
