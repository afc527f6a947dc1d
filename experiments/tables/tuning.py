"""Choice of learning rates, and of the methods' own settings, by accuracy on validation examples.

The spec ``tune`` has as many rows for each method, which differ in the settings to choose among:
``full lr=0.01``. The learning rate of full training is chosen first, and is that of all methods.
"""

import json
from dataclasses import replace
from typing import Any

import pandas as pd

from experiments.errors import UserError
from experiments.files import write_json_atomic
from experiments.plan import labelled_plan
from experiments.reporting.labels import display_name
from experiments.runs.run_frame import read_csv
from experiments.spec import Spec, load_spec, merged, tuned_file
from experiments.tables.table import Table, make_table


def tune(table: Table) -> None:
    """Executes the missing runs, and writes the settings that they choose.

    Args:
        table: the table ``tune``, all of it or for some models.

    Raises:
        UserError: methods differ in their number of candidates; see `make_table` for others.
    """
    spec = load_spec(table.name)
    check_efforts(spec)
    make_table(replace(table, methods=[row for row in spec.methods if _is_full(row)]))
    write_chosen(table)
    make_table(table)  # which reads what was written
    write_chosen(table)


def check_efforts(spec: Spec) -> None:
    """Checks that as many candidates are tried for each method.

    Raises:
        UserError: they are not.
    """
    rows = _rows_by_method(spec)
    if len({len(of) for of in rows.values()}) > 1:
        counts = ", ".join(f"{method} {len(of)}" for method, of in rows.items())
        raise UserError(f"Try as many settings for each method; these are {counts}.")


def write_chosen(table: Table) -> None:
    """Writes the settings of the most accurate rows, and says what they are.

    Settings of which a run is missing stay as they are.

    Args:
        table: the table, drawn.
    """
    spec = load_spec(table.name)  # with what another process has written since
    found = read_csv(table.results / f"{table.name}-{table.scale}" / "runs.csv")
    chosen = best_settings(found, spec, table.scale)
    before = spec.tuned.get(table.scale, {})
    write_json_atomic(tuned_file(table.name, table.scale), merged(before, chosen))
    for model, of in chosen.items():
        print(f"{display_name(model)}: {json.dumps(of)}")


def best_settings(frame: pd.DataFrame, spec: Spec, scale: str) -> dict[str, Any]:
    """Returns the settings with the highest mean accuracy, over data sets and seeds.

    Args:
        frame: the runs of the table.
        spec: the table's spec.
        scale: a scale of it.

    Returns:
        For each model, ``run``, fields of `RunConfig`, and ``options`` by method. Methods of which
        a run is missing are left out. Diverged runs have no accuracy: their rows are not chosen.
    """
    planned = pd.DataFrame(
        [(run.model, row) for run, row in labelled_plan(spec, scale).items()],
        columns=["model", "row"],
    ).value_counts()
    settings: dict[str, Any] = {}
    for model, of_model in frame.groupby("model", sort=False):
        for method, rows in _rows_by_method(spec).items():
            of = of_model[of_model["method"].isin(rows)].groupby("method")
            if any(of.size().get(row, 0) < planned.get((model, row), 0) for row in rows):
                continue
            accuracy = of["final_accuracy"].agg(lambda each: each.mean(skipna=False))
            if accuracy.notna().any():
                best = max(rows, key=lambda row: accuracy.fillna(-1.0)[row])
                settings = merged(settings, {str(model): _settings_of(spec, best, method)})
    return settings


def _settings_of(spec: Spec, row: str, method: str) -> dict[str, Any]:
    names = [setting.partition("=")[0] for setting in row.split()[1:]]
    fields, options = spec.fields.get(row, {}), spec.options.get(row, {})
    run = {name: fields[name] for name in names if name in fields}
    own = {name: options[name] for name in names if name in options}
    return ({"run": run} if run else {}) | ({"options": {method: own}} if own else {})


def _rows_by_method(spec: Spec) -> dict[str, list[str]]:
    """The rows that are candidates, by method."""
    rows: dict[str, list[str]] = {}
    for row in spec.methods:
        if "=" in row:
            rows.setdefault(row.partition(" ")[0], []).append(row)
    return rows


def _is_full(row: str) -> bool:
    return row.partition(" ")[0] == "full"
