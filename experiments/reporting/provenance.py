"""Provenance of a table's numbers: a sentence for its caption, and all details for a file."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def measured_on(rows: pd.DataFrame) -> str:
    """Returns the last sentence of a caption: machines, torch versions, seeds and commands.

    Args:
        rows: one or more rows with ``machine``, ``torch``, ``git``, ``seed`` and ``command``, and
            with ``code`` if that was recorded.
    """
    seeds = distinct(rows["seed"])
    counted = {"commits": distinct(rows["git"]), "versions of the code": distinct(_code(rows))}
    several = [f"{len(found)} {what}" for what, found in counted.items() if len(found) > 1]
    versions = f"; {', '.join(several)} (provenance.json)" if several else ""
    return (
        f"Measured on {' and '.join(distinct(rows['machine']))}, torch "
        f"{' and '.join(distinct(rows['torch']))}, seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(seeds)}: {' and '.join(distinct(rows['command']))}{versions}."
    )


def provenance_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Returns the contents of ``provenance.json``: the number of rows with each value.

    Args:
        rows: as for `measured_on`, and with ``code`` if that was recorded.
    """
    columns = {
        **{name: rows[name] for name in ("machine", "torch", "git")},
        "code": _code(rows),
        **{name: rows[name] for name in ("command", "seed")},
    }
    return {name: _counts(values) for name, values in columns.items()}


def _code(rows: pd.DataFrame) -> pd.Series:
    code = rows["code"] if "code" in rows else pd.Series(index=rows.index, dtype=str)
    return code.fillna("not recorded")


def single_source(facts: Mapping[str, Any]) -> str:
    """Returns the last sentence of the caption of a single measurement, see `Measurement`."""
    machine = facts["machine"]
    threads = "1 thread" if machine["cores"] == 1 else f"{machine['cores']} threads"
    where = machine["gpu"] or machine["cpu"]
    return f"Measured on {where}, {threads}, torch {facts['torch']}: {facts['command']}."


def distinct(values: pd.Series) -> list[str]:
    """Returns the distinct values, sorted, as strings."""
    return [str(value) for value in sorted(values.dropna().unique())]


def _counts(values: pd.Series) -> dict[str, int]:
    counts = values.astype(str).value_counts()
    return {value: int(counts[value]) for value in sorted(counts.index)}
