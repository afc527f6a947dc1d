"""Rows that can be added to any table, each kind with a spec and a switch of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from experiments.spec import Spec, load_spec, merged

KINDS = ("controls", "budget")
"""What a sceptic would put beside SmartFRZ; what methods reach within a part of the compute."""


def with_rows(spec: Spec, of: str) -> Spec:
    """A table with the rows of another spec that can be told from what it has.

    A variant of a method takes over its options from the table. A row that is matched with another
    needs that one, any other variant its method; rows that lack what they need are left out.

    Args:
        spec: the table.
        of: ``controls``, what a sceptic would put beside SmartFRZ, or ``budget``, what methods
            reach within a part of the compute.
    """
    rows, scales = load_spec(of), {}
    added: list[str] = []
    for row in rows.methods:
        method, _, variant = row.partition(" ")
        needed = rows.options.get(row, {}).get("match", method if variant else None)
        if row not in spec.methods and needed in (None, *spec.methods, *added):
            added.append(row)
    for name, values in spec.scales.items():
        own = rows.scales.get(name, {}).get("options", {})
        options = {row: _of_variant(row, values.get("options", {}), own) for row in added}
        scales[name] = merged(values, {"options": options})
    return replace(
        spec,
        methods=[*spec.methods, *added],
        options=spec.options | {row: _of_variant(row, spec.options, rows.options) for row in added},
        fields=spec.fields | {row: rows.fields[row] for row in added if row in rows.fields},
        scales=scales,
    )


def _of_variant(label: str, of_table: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A row's options: the method's in the table, changed by its own."""
    return merged(of_table.get(label.partition(" ")[0], {}), own.get(label, {}))


def left_out(spec: Spec, of: str) -> list[str]:
    """The rows of another spec that a table can't have, since it lacks what they need."""
    there = with_rows(spec, of).methods
    return [row for row in load_spec(of).methods if row not in there]


def kinds_among(methods: Iterable[str], spec: Spec) -> list[str]:
    """The kinds of additional rows that are among the methods of a table as it was drawn."""
    found = set(methods) - set(spec.methods)
    return [of for of in KINDS if found & set(with_rows(spec, of).methods)] if found else []
