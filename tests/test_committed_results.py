"""The tables under results/ are those of the run files beside them: none is stale or typed."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.plan import labelled_plan, load_spec, with_controls
from experiments.results import is_intact, read_csv, read_run, runs_to_frame, write_csv
from experiments.tables import caption, comparison_table, to_markdown
from scripts.readme import ROOT
from scripts.table import PAPER

RESULTS = ROOT / "results"
TABLES = sorted({file.parent for file in RESULTS.glob("table*-*/runs.csv")})
TABLES += [RESULTS / f"{name}-small" for name in ("policies", "thresholds", "unconverged")]


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: folder.name)
def test_a_table_is_that_of_its_run_files(folder: Path, tmp_path: Path):
    name, _, scale = folder.name.rpartition("-")
    spec, frame = load_spec(name), read_csv(folder / "runs.csv")
    if not set(frame["method"]) <= set(spec.methods):
        spec = with_controls(spec)
    planned = labelled_plan(spec, scale)
    method_of = dict(zip(frame["id"], frame["method"], strict=True))

    runs = [read_run(RESULTS / "runs" / f"{id}.json") for id in method_of]
    assert all(run and is_intact(run) for run in runs)
    anew = runs_to_frame([run for run in runs if run])
    write_csv(anew.assign(method=anew["id"].map(method_of)), tmp_path / "runs.csv")
    anew = read_csv(tmp_path / "runs.csv")
    by_id = [each.sort_values("id", ignore_index=True) for each in (frame, anew[frame.columns])]
    pd.testing.assert_frame_equal(*by_id)

    unmatched = {config.id for config in planned if not getattr(config.options, "match", "")}
    done = {id for id in unmatched if (RESULTS / "runs" / f"{id}.json").exists()}
    assert done <= method_of.keys(), "a run was done after the table was drawn"

    cells = [(c.model, c.dataset, method, c.seed) for c, method in planned.items()]
    paper = pd.read_csv(PAPER)
    paper = paper[("table" + paper["table"].astype(str)) == name]
    table = comparison_table(frame, cells, paper)
    assert (folder / "table.md").read_text() == to_markdown(table, caption(frame, spec.title))
