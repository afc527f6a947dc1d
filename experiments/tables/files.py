"""Files of a table, made from its run files: CSV, Markdown, LaTeX, claims and figures."""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.added_rows import KINDS, kinds_among, with_rows
from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import write_csv, write_json_atomic, write_text_atomic
from experiments.plan import labelled_plan
from experiments.reporting import figures, style, tables
from experiments.reporting.claims.tables import claims
from experiments.reporting.equal_compute import differences as paired
from experiments.reporting.equal_compute.claims import claims as claims_at_equal_compute
from experiments.reporting.equal_compute.figure import accuracy_at_several_computes
from experiments.reporting.equal_compute.rows import (
    compared,
    has_several_computes,
    method_and_compute,
)
from experiments.reporting.provenance import provenance_of
from experiments.runs.execute import run_file
from experiments.runs.run_files import read_run
from experiments.runs.run_frame import read_csv, runs_to_frame
from experiments.spec import SPECS, Spec, load_spec
from experiments.tables.matched_compute import matched

PAPER = SPECS / "paper.csv"


FIGURES = {
    "accuracy_against_compute": figures.accuracy_against_compute,
    "layers_frozen_over_time": figures.layers_frozen_over_time,
}


def draw(results: Path, name: str, scale: str, spec: Spec, added: Sequence[str] = ()) -> None:
    """Writes the CSV, table and figure files of a table, and prints the table.

    Args:
        results: the folder of all results.
        name: the name of the table.
        scale: a scale of it.
        spec: its spec.
        added: kinds of rows to add to those that the table was last drawn with.
    """
    folder = results / f"{name}-{scale}"
    kinds = {*added, *drawn_kinds(folder, spec)}
    whole = reduce(with_rows, [kind for kind in KINDS if kind in kinds], spec)
    planned = labelled_plan(whole, scale)
    frame = collect(planned, results / "runs")
    title = f"{spec.title} A rehearsal: runs are cut short." if spec.is_rehearsal else spec.title
    table = write_all(frame, planned, name, title, folder)
    print(tables.to_text(table))
    print(tables.caption(frame, title, tables.shows_time(table)))
    print("\n".join(str(file) for file in sorted(folder.iterdir())))


def redraw(drawn: Path, runs: Path, folder: Path) -> None:
    """Draws a table again from the run files of its runs, without any data set.

    Args:
        drawn: the table's folder, ``<name>-<scale>``, with its ``runs.csv``.
        runs: the folder of the run files.
        folder: the folder to write to; may be the same.

    Raises:
        UserError: the folder has no ``runs.csv``, or a run file is missing or damaged.
    """
    if not (drawn / "runs.csv").exists():
        raise UserError(f"{drawn} holds no table: it has no runs.csv.")
    name, _, scale = drawn.name.rpartition("-")
    spec, written = load_spec(name), read_csv(drawn / "runs.csv")
    method_of = dict(zip(written["id"], written["method"], strict=True))
    found = {id: read_run(runs / f"{id}.json") for id in method_of}
    if missing := [id for id, run in found.items() if run is None]:
        raise UserError(f"{runs} lacks the runs {', '.join(missing)} of {drawn.name}.")
    frame = runs_to_frame([run for run in found.values() if run])
    frame = frame.assign(method=frame["id"].map(method_of))
    planned = labelled_plan(reduce(with_rows, drawn_kinds(drawn, spec), spec), scale)
    write_all(frame, planned, name, spec.title, folder)


def drawn_kinds(folder: Path, spec: Spec) -> list[str]:
    """Returns the kinds of added rows that a table was last drawn with."""
    runs = folder / "runs.csv"
    return kinds_among(read_csv(runs)["method"], spec) if runs.exists() else []


def write_all(
    frame: pd.DataFrame, planned: Mapping[RunConfig, str], name: str, title: str, folder: Path
) -> pd.DataFrame:
    """Writes all files of a table, and returns the table."""
    for old in ("claims.md", *(f"{each}.{kind}" for each in FIGURES for kind in ("png", "pdf"))):
        (folder / old).unlink(missing_ok=True)
    table = write_tables(frame, planned, name, title, folder)
    if has_several_computes(planned.values()):
        write_differences(frame, planned, folder)
    if (frame["status"] == "finished").any():
        for figure_name, figure in _figures(frame, planned).items():
            style.save(figure, folder / figure_name)
    return table


def _figures(frame: pd.DataFrame, planned: Mapping[RunConfig, str]) -> dict[str, Figure]:
    """Draws the figures of a table; with several computes, layers are those that SmartFRZ froze."""
    if not has_several_computes(planned.values()):
        return {name: figure(frame) for name, figure in FIGURES.items()}
    shown = frame[frame["method"].isin(compared(planned).values())]
    drawn = {"accuracy_against_compute": accuracy_at_several_computes(shown)}
    own = shown[[method_and_compute(row)[0] == "smartfrz" for row in shown["method"]]]
    if (own["status"] == "finished").any():
        drawn["layers_frozen_over_time"] = figures.layers_frozen_over_time(own)
    return drawn


def write_differences(frame: pd.DataFrame, planned: Mapping[RunConfig, str], folder: Path) -> None:
    """Writes SmartFRZ's differences to other methods at the same compute, and their claims."""
    cells = [(c.model, c.dataset, method, c.seed) for c, method in compared(planned).items()]
    found = paired.differences(frame, cells)
    caption = paired.caption(frame)
    text = f"{paired.to_markdown(found, caption)}\n{claims_at_equal_compute(found)}"
    write_csv(found, folder / "differences.csv")
    write_text_atomic(folder / "differences.md", text)
    write_text_atomic(folder / "differences.tex", paired.to_latex(found, caption))


def write_tables(
    frame: pd.DataFrame, planned: Mapping[RunConfig, str], name: str, title: str, folder: Path
) -> pd.DataFrame:
    """Writes all files of a table except the figures, and returns the table."""
    write_csv(frame, folder / "runs.csv")
    write_json_atomic(folder / "provenance.json", provenance_of(frame))
    cells = [(c.model, c.dataset, method, c.seed) for c, method in planned.items()]
    paper = pd.read_csv(PAPER)
    paper = paper[("table" + paper["table"].astype(str)) == name]
    table = tables.comparison_table(frame, cells, paper)
    caption = tables.caption(frame, title, tables.shows_time(table))
    write_csv(table, folder / "table.csv")
    write_text_atomic(folder / "table.md", tables.to_markdown(table, caption))
    write_text_atomic(folder / "table.tex", tables.to_latex(table, caption))
    if found := claims(frame):
        write_text_atomic(folder / "claims.md", found)
    return table


def collect(planned: Mapping[RunConfig, str], runs: Path) -> pd.DataFrame:
    """Returns the finished runs of a table, one row each, with their methods as in the spec."""
    found, methods = [], {}
    for config, method in planned.items():
        known = matched(config, planned, runs)
        file = run_file(known or config, runs)
        if known and file.exists() and (run := read_run(file)):
            found.append(run)
            methods[run["id"]] = method
    frame = runs_to_frame(found)
    # Labels are set last: they would invalidate the checksums of the runs.
    return frame.assign(method=frame["id"].map(methods))
