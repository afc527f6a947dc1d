"""The tables under results/ are those of the run files beside them: none is stale or typed."""

from functools import reduce
from pathlib import Path

import pytest

from experiments.plan import labelled_plan, load_spec
from experiments.results import is_intact, read_csv, read_run, runs_to_frame
from experiments.rows import with_rows
from scripts.readme import ROOT
from scripts.table import drawn_rows, write_tables

RESULTS = ROOT / "results"
TABLES = sorted({file.parent for file in RESULTS.glob("table*-*/runs.csv")})
TABLES += [RESULTS / f"{name}-small" for name in ("policies", "thresholds", "unconverged")]


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: folder.name)
def test_a_table_is_that_of_its_run_files(folder: Path, tmp_path: Path):
    name, _, scale = folder.name.rpartition("-")
    spec, written = load_spec(name), read_csv(folder / "runs.csv")
    spec = reduce(with_rows, drawn_rows(folder, spec), spec)
    planned = labelled_plan(spec, scale)
    method_of = dict(zip(written["id"], written["method"], strict=True))

    runs = [read_run(RESULTS / "runs" / f"{id}.json") for id in method_of]
    assert all(run and is_intact(run) for run in runs)
    unmatched = {config.id for config in planned if not getattr(config.options, "match", "")}
    done = {id for id in unmatched if (RESULTS / "runs" / f"{id}.json").exists()}
    assert done <= method_of.keys(), "a run was done after the table was drawn"

    anew = runs_to_frame([run for run in runs if run])
    anew = anew.assign(method=anew["id"].map(method_of))
    write_tables(anew, planned, name, spec.title, tmp_path)
    kept = {file.name for file in folder.iterdir() if file.suffix in (".csv", ".md", ".tex")}
    assert {file.name for file in tmp_path.iterdir()} == kept
    for file in kept:
        assert (tmp_path / file).read_text() == (folder / file).read_text(), file
