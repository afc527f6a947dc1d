"""Optional rows for any table; each kind has its own spec and command-line switch."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from experiments.spec import Spec, load_spec, merged

KINDS = ("controls", "budget")
"""Compute-matched controls; methods under a budget, a fraction of full training's compute."""


def with_rows(spec: Spec, of: str) -> Spec:
    """Adds the rows of another spec to a table, except those that the table already has.

    A variant of a method inherits the table's options for that method. A row with a ``match``
    option requires the matched row in the table; any other variant requires its method. Rows
    without their required row are left out.

    Args:
        spec: the table.
        of: the kind of rows: ``controls``, the compute-matched controls, or ``budget``, methods
            that spend a fraction of full training's compute.

    Returns:
        The table with the added rows after its own.
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
        scales[name] = _with_options(values, added, own)
        if more := values.get("more"):
            scales[name]["more"] = [
                _with_options(each, possible, own)
                | {"methods": [*each.get("methods", spec.methods), *possible]}
                for each in more
                for possible in [_possible(rows, added, each.get("options", {}))]
            ]
    return replace(
        spec,
        methods=[*spec.methods, *added],
        options=spec.options | {row: _of_variant(row, spec.options, rows.options) for row in added},
        fields=spec.fields | {row: rows.fields[row] for row in added if row in rows.fields},
        scales=scales,
    )


def _possible(rows: Spec, added: Iterable[str], options: Mapping[str, Any]) -> list[str]:
    """Of added rows, those without a budget that their method has already in further workloads.

    Args:
        rows: the spec of the added rows.
        added: their labels.
        options: the options of the workloads' methods.
    """
    possible: list[str] = []
    for row in added:
        has_compute = "compute" in options.get(row.partition(" ")[0], {})
        match = rows.options.get(row, {}).get("match")
        is_matched = match not in rows.methods or match in possible
        if is_matched and not (has_compute and "budget" in rows.fields.get(row, {})):
            possible.append(row)
    return possible


def _with_options(
    workloads: Mapping[str, Any], added: Iterable[str], own: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of a scale, or of further workloads, with the options of added rows."""
    of_table = workloads.get("options", {})
    return merged(workloads, {"options": {row: _of_variant(row, of_table, own) for row in added}})


def _of_variant(label: str, of_table: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an added row: its method's options in the table, updated with its own."""
    return merged(of_table.get(label.partition(" ")[0], {}), own.get(label, {}))


def left_out(spec: Spec, of: str) -> list[str]:
    """The rows of another spec that cannot be added because the table lacks a required row."""
    there = with_rows(spec, of).methods
    return [row for row in load_spec(of).methods if row not in there]


def kinds_among(methods: Iterable[str], spec: Spec) -> list[str]:
    """The kinds of added rows that occur among the methods of a table as it was drawn."""
    found = set(methods) - set(spec.methods)
    return [of for of in KINDS if found & set(with_rows(spec, of).methods)] if found else []
