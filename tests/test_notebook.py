"""The notebook in examples/: its code runs, and what it shows was computed by it."""

import json
from typing import Any

import matplotlib
import pytest

from experiments.files import ROOT

NOTEBOOK = json.loads((ROOT / "examples/budget.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def test_all_cells_were_run_in_their_order_without_errors():
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)]
    outputs = [output for cell in CODE for output in cell["outputs"]]
    kinds = [output["output_type"] for output in outputs]
    assert kinds.count("display_data") + kinds.count("execute_result") == 2  # pictures
    assert set(kinds) == {"stream", "display_data", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}


@pytest.mark.slow
def test_it_runs_on_a_smaller_scale():
    matplotlib.use("Agg")
    names: dict[str, Any] = {}
    small = '"digits", 320, 1, 32, 32'
    for number, cell in enumerate(CODE):
        code = source(cell).replace('"cifar10", 1920, 2, 64, 64', small)
        assert number or small in code
        exec(code, names)
    assert names["STEPS"] == 10
    freezer, curve = names["runs"]["SmartFRZ"]
    assert freezer.frozen and curve[-1][0] == pytest.approx(0.7, abs=0.02)
    computes = [run[1][-1][0] for run in names["runs"].values()]
    assert computes == pytest.approx([1.0, 0.7, 0.7, 0.7], abs=0.02)
