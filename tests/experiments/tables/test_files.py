"""Tests of the files of a table of methods at several computes."""

import pandas as pd
import pytest

from experiments.plan import labelled_plan
from experiments.spec import Spec
from experiments.tables.files import write_all
from tests.helpers.at_computes import runs_at_computes

ROWS = ["full", "smartfrz 75%", "shorter 75%", "smartfrz 58%", "linear annealed 58%"]


def test_a_table_at_several_computes_has_differences_beside_it(tmp_path):
    options = {row: {"compute": int(row[-3:-1]) / 100} for row in ROWS[1:]}
    options["linear annealed 58%"]["freeze"] = False
    scale = {"models": ["plain"], "datasets": ["digits"], "seeds": [0, 1], "run": {}}
    planned = labelled_plan(Spec("A table.", ROWS, {"demo": scale}, options), "demo")
    accuracies = {row: [80.0, 81.5] for row in ("full", "shorter 75%", "linear annealed 58%")}
    accuracies["smartfrz 75%"] = [82.0, 83.0]
    frame = runs_at_computes({("plain", "digits"): accuracies}, epochs=1.0)
    write_all(frame, planned, "compute", "A table.", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        *(f"table.{kind}" for kind in ("csv", "md", "tex")),
        *(f"differences.{kind}" for kind in ("csv", "md", "tex")),
        *(f"accuracy_against_compute.{kind}" for kind in ("png", "pdf")),
        *(f"layers_frozen_over_time.{kind}" for kind in ("png", "pdf")),
        *("runs.csv", "provenance.json"),
    }
    table = pd.read_csv(tmp_path / "differences.csv")
    found = table[table["model"] == "plain"].set_index(["compute", "rival"])
    assert list(found["mean"].dropna()) == pytest.approx([1.75, 1.75])
    assert found["n"].to_dict() == {(0.75, "full"): 2, (0.75, "shorter"): 2, (0.58, "full"): 0}
    text = (tmp_path / "differences.md").read_text()
    assert "| 58% | Full training | not run |" in text
    assert "is ahead of the best control in at least half of the workloads:** holds;" in text
