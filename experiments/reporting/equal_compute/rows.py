"""The rows of a table of methods at several computes: ``smartfrz 75%``."""

import re
from collections.abc import Iterable, Mapping

from experiments.config import RunConfig

_ROW = re.compile(r"(.+) (\d+)%")


def method_and_compute(row: str) -> tuple[str, float | None]:
    """Splits a row into its method and its fraction of full training's compute, if it has one.

    Args:
        row: a method as named in the spec, including the variant's label.
    """
    found = _ROW.fullmatch(row)
    return (found[1], int(found[2]) / 100) if found else (row, None)


def has_several_computes(rows: Iterable[str]) -> bool:
    """Whether a table compares SmartFRZ with others at several computes."""
    split = {method_and_compute(row) for row in rows}
    return sum(method == "smartfrz" and compute is not None for method, compute in split) > 1


def compared(planned: Mapping[RunConfig, str]) -> dict[RunConfig, str]:
    """Returns the runs that are compared at equal compute: full training, and those that save some.

    Linear freezing's learning rates with nothing frozen are a diagnostic with the compute of full
    training.

    Args:
        planned: the table's runs and their rows.
    """
    return {run: row for run, row in planned.items() if getattr(run.options, "freeze", True)}
