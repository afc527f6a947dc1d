"""The tables under results/ are those of the run files beside them: none is stale or typed."""

from functools import reduce
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments.added_rows import with_rows
from experiments.files import ROOT
from experiments.plan import labelled_plan
from experiments.reporting import style
from experiments.runs.run_files import is_intact, read_run
from experiments.runs.run_frame import read_csv
from experiments.spec import load_spec
from experiments.tables.files import FIGURES, drawn_kinds, redraw

RESULTS = ROOT / "results"
TABLES = sorted({file.parent for file in RESULTS.glob("table*-*/runs.csv")})
TABLES += [RESULTS / f"{name}-small" for name in ("policies", "thresholds", "unconverged")]


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: folder.name)
def test_a_table_is_that_of_its_run_files(folder: Path, tmp_path: Path, monkeypatch):
    name, _, scale = folder.name.rpartition("-")
    spec, written = load_spec(name), read_csv(folder / "runs.csv")
    spec = reduce(with_rows, drawn_kinds(folder, spec), spec)
    planned = labelled_plan(spec, scale)
    method_of = dict(zip(written["id"], written["method"], strict=True))

    runs = [read_run(RESULTS / "runs" / f"{id}.json") for id in method_of]
    assert all(run and is_intact(run) for run in runs)
    unmatched = {config.id for config in planned if not getattr(config.options, "match", "")}
    done = {id for id in unmatched if (RESULTS / "runs" / f"{id}.json").exists()}
    assert done <= method_of.keys(), "a run was done after the table was drawn"

    # The bytes of figures depend on matplotlib's version, and they take half of the time.
    saved: list[str] = []
    for figure in FIGURES:
        monkeypatch.setitem(FIGURES, figure, lambda frame: Figure())
    monkeypatch.setattr(style, "save", lambda figure, path: saved.append(path.name))
    redraw(folder, RESULTS / "runs", tmp_path)
    kept = {file.name for file in folder.iterdir()}
    figures = {f"{name}.{kind}" for name in saved for kind in ("png", "pdf")}
    assert {file.name for file in tmp_path.iterdir()} | figures == kept
    for file in kept - figures:
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file
