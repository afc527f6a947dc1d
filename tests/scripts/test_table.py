"""End-to-end tests of the table command: runs, drawn files, resuming."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.reporting.labels import display_name
from experiments.runs.run_files import read_run
from experiments.runs.run_frame import read_csv
from experiments.tables import compute
from tests.helpers.table_folder import METHODS, files_in, run_table, use, write_spec

DRAWN = {
    *("runs.csv", "provenance.json", "claims.md", "table.csv", "table.md", "table.tex"),
    *("accuracy_against_compute.png", "accuracy_against_compute.pdf"),
    *("layers_frozen_over_time.png", "layers_frozen_over_time.pdf"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which the table was executed for one of its two models."""
    folder = tmp_path_factory.mktemp("done")
    write_spec(folder)
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        assert run_table(patch, "--models", "residual") == 0
    return folder


@pytest.fixture
def workplace(done, monkeypatch):
    """The same folder, with the command redirected to it."""
    use(done, monkeypatch)
    return done


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder with specs only, with the command redirected to it."""
    write_spec(tmp_path)
    use(tmp_path, monkeypatch)
    return tmp_path


def recorded_runs(folder: Path) -> dict[str, dict]:
    """The runs of the table by method, and the pretraining run."""
    runs = [read_run(file) for file in (folder / "results" / "runs").glob("*.json")]
    names = {"digits[0:5]": "pretraining"}
    return {
        names.get(run["config"]["dataset"], run["config"]["method"]): run for run in runs if run
    }


def test_the_table_is_run_and_drawn(workplace):
    assert set(recorded_runs(workplace)) == {*METHODS, "pretraining"}
    drawn = workplace / "results" / "table2-demo"
    assert {path.name for path in drawn.iterdir()} == DRAWN
    assert all(path.stat().st_size > 100 for path in drawn.iterdir())
    assert (drawn / "table.tex").read_text().count("\\begin{tabular}") == 1
    assert list(read_csv(drawn / "runs.csv")["method"]) == sorted(METHODS)
    assert list((workplace / "cache" / "checkpoints").iterdir()) == []


def test_every_cell_of_the_table_is_there_also_those_that_were_not_run(workplace):
    cells = pd.read_csv(workplace / "results" / "table2-demo" / "table.csv")
    assert {(row.model, row.method): row.n for row in cells.itertuples()} == {
        (model, method): int(model == "residual")
        for model in ("residual", "plain")
        for method in METHODS
    }
    text = (workplace / "results" / "table2-demo" / "table.md").read_text()
    names = ", ".join(map(display_name, METHODS))
    assert f"| {names} | not run (0/1) |" in text
    assert "Some digits." in text


def test_all_methods_start_from_the_same_pretraining(workplace):
    runs = recorded_runs(workplace)
    accuracy = runs.pop("pretraining")["final_accuracy"]
    digests = {run["pretrained"].pop("sha256") for run in runs.values()}
    assert len(digests) == 1
    for run in runs.values():
        assert run["pretrained"] == {"source": "digits[0:5]", "accuracy": accuracy}


def test_linear_freezing_costs_what_smartfrz_costs(workplace):
    runs = recorded_runs(workplace)
    # The number of steps is whole, and each layer freezes up to a step later than planned. When
    # SmartFRZ freezes which layer, and with it what is to be matched, depends on the processor.
    step = runs["full"]["tflops"] / runs["full"]["steps"]
    assert runs["linear"]["tflops"] == pytest.approx(runs["smartfrz"]["tflops"], abs=1.5 * step)
    assert runs["linear"]["config"]["epochs"] != 6
    assert runs["smartfrz"]["frozen"] and runs["linear"]["frozen"]
    assert runs["full"]["tflops"] == runs["full"]["tflops_full"]


def test_finished_runs_are_not_repeated(workplace, monkeypatch, capsys):
    before = files_in(workplace / "results" / "runs") | files_in(workplace / "cache")
    monkeypatch.setattr("experiments.tables.table.execute", None)
    assert run_table(monkeypatch, "--models", "residual") == 0
    assert files_in(workplace / "results" / "runs") | files_in(workplace / "cache") == before
    said = capsys.readouterr()
    assert "4 cells, 0 runs to do" in said.out
    assert "not run (0/1)" in said.out
    assert said.err == ""


def test_a_dry_run_says_what_is_to_do_and_writes_nothing(empty, monkeypatch, capsys):
    assert run_table(monkeypatch, "--dry") == 0
    assert not (empty / "results").exists()
    assert files_in(empty / "cache") == {}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Some digits."
    compute = r"full training: [\d.]+ TFLOPs \(as the paper counts: [\d.]+\)"
    assert any(re.fullmatch(rf"  residual digits\[5:10\], {compute}", line) for line in lines)
    assert "8 cells, 10 runs to do, pretraining included:" in lines
    assert "  residual digits[0:5] full seed 0, 1 epochs" in lines
    assert "  plain digits[5:10] linear seed 0, 6 epochs" in lines
    assert (
        "Data: digits[5:10], digits[0:5]." in lines or "Data: digits[0:5], digits[5:10]." in lines
    )


def test_a_dry_run_without_the_data_says_so_and_all_else(empty, monkeypatch, capsys):
    monkeypatch.delenv("SMARTFRZ_DATA", raising=False)
    spec = empty / "specs" / "table2.toml"
    spec.write_text(spec.read_text().replace('"digits[5:10]"', '"imagefolder"'))
    assert run_table(monkeypatch, "--dry") == 0
    said = capsys.readouterr().out
    assert "  residual imagefolder full seed 0, 6 epochs" in said
    assert "Cannot be started: The data set imagefolder is missing" in said
    assert run_table(monkeypatch) == 2


@pytest.mark.parametrize("damage", ["truncated", "wrong keys"])
def test_a_damaged_run_file_is_set_aside_and_its_run_repeated(
    workplace, monkeypatch, capsys, damage
):
    old = recorded_runs(workplace)["autofreeze"]
    file = workplace / "results" / "runs" / f"{old['id']}.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2] if damage == "truncated" else '{"config": {}}')
    assert run_table(monkeypatch, "--models", "residual") == 0
    said = capsys.readouterr()
    assert "4 cells, 1 runs to do" in said.out
    assert said.err.startswith("warning: ") and f"{file.name}.corrupt" in said.err
    new = recorded_runs(workplace)["autofreeze"]
    assert new["date"] >= old["date"]
    for key in ("accuracy", "loss", "frozen", "tflops"):
        assert new[key] == old[key]


VARIANTS = """
title = "Variants."
methods = ["full", "smartfrz", "smartfrz idle", "displacement", "similarity", "linear"]
scales_of = "table2"
options.linear.match = "smartfrz idle"
options.displacement.threshold = 0.01
options.similarity.reference_seed = 0
options.smartfrz = {smartfrz}
options."smartfrz idle" = {idle}

[scales.demo]
models = ["residual"]
run = {{ epochs = 3, train_images = 320 }}
"""


def test_variants_of_a_method_are_rows_of_their_own(empty, monkeypatch, capsys):
    """The oracle's reference, here full training itself, is executed once, before the oracle."""
    predictor = f'predictor = "{empty / "predictor"}", records_per_epoch = 2'
    smartfrz = f"{{ {predictor}, records_per_decision = 1, threshold = 0.87 }}"
    text = VARIANTS.format(smartfrz=smartfrz, idle=f"{{ {predictor}, threshold = 1.0 }}")
    (empty / "specs" / "policies.toml").write_text(text)
    assert run_table(monkeypatch, name="policies") == 0
    said = capsys.readouterr().out
    assert "6 cells, 7 runs to do" in said
    assert "  residual digits[5:10] smartfrz idle seed 0, 3 epochs" in said
    assert run_table(monkeypatch, name="policies") == 0
    assert "6 cells, 0 runs to do" in capsys.readouterr().out

    drawn = empty / "results" / "policies-demo"
    assert {path.name for path in drawn.iterdir()} == DRAWN
    rows = [line.split(" | ")[2] for line in (drawn / "table.md").read_text().splitlines()[4:]]
    assert rows == [
        *("Full training", "SmartFRZ", "SmartFRZ idle"),
        *("Displacement rule", "Similarity-guided", "Linear freezing"),
    ]
    assert "edited by hand" not in (drawn / "table.md").read_text()
    runs = read_csv(drawn / "runs.csv").set_index("method")
    frozen = {method: bool(json.loads(layers)) for method, layers in runs["frozen"].items()}
    assert frozen.pop("full") is frozen.pop("smartfrz idle") is False
    assert all(frozen.values())
    tflops = runs["tflops"]
    assert tflops["linear"] == pytest.approx(tflops["full"], rel=0.03)
    assert tflops["smartfrz"] < 0.97 * tflops["full"]
    written = [read_run(file) for file in (empty / "results" / "runs").glob("*.json")]
    assert {run["config"]["method"] for run in written if run} == {
        *("full", "smartfrz", "displacement", "similarity", "linear")
    }


def test_rows_that_were_added_stay_in_the_table(tmp_path, monkeypatch, capsys):
    write_spec(tmp_path, ["full", "smartfrz", "linear"])
    use(tmp_path, monkeypatch)
    assert run_table(monkeypatch, "--models", "residual", "--controls") == 0
    said = capsys.readouterr().out
    assert "Left out: shorter, because this table lacks the row they require." in said
    drawn = tmp_path / "results" / "table2-demo" / "table.md"
    with_controls = drawn.read_text()
    assert "Displacement rule" in with_controls and "Shorter training" not in with_controls
    assert run_table(monkeypatch, "--models", "residual") == 0
    assert "3 cells, 0 runs to do" in capsys.readouterr().out
    assert drawn.read_text() == with_controls


def test_runs_are_tracked_only_if_asked_for(workplace, monkeypatch):
    calls = []

    def start_tracking(config, name, label):
        calls.append((name, label))
        return lambda run, curves: calls.append(curves.step), lambda: calls.append("end")

    monkeypatch.setattr("experiments.tables.table.start_tracking", start_tracking)
    for arguments in ([], ["--wandb"]):
        old = recorded_runs(workplace)["autofreeze"]
        (workplace / "results" / "runs" / f"{old['id']}.json").unlink()
        assert run_table(monkeypatch, "--models", "residual", *arguments) == 0
        assert bool(calls) == bool(arguments)
    ends = [step * old["steps_per_epoch"] for step in range(1, 7)]
    assert calls == [("table2", "autofreeze"), *ends, "end"]


def test_methods_and_seeds_choose_cells(tmp_path, monkeypatch, capsys):
    write_spec(tmp_path)
    use(tmp_path, monkeypatch)
    chosen = ["--models", "plain", "--methods", "full", "autofreeze", "--seeds", "0"]
    assert run_table(monkeypatch, *chosen, "--dry") == 0
    said = capsys.readouterr().out
    assert "2 cells, 3 runs to do" in said
    assert "full seed 0" in said and "autofreeze seed 0" in said and "linear" not in said
    assert run_table(monkeypatch, "--methods", "shorter", "--dry") != 0
    assert "There is no method 'shorter' here: choose from autofreeze" in capsys.readouterr().err
    assert run_table(monkeypatch, "--seeds", "1", "--dry") != 0
    assert "There is no seed 1 here: choose from 0." in capsys.readouterr().err


def test_a_matched_row_alone_is_left_out(tmp_path, monkeypatch, capsys):
    write_spec(tmp_path)
    use(tmp_path, monkeypatch)
    assert run_table(monkeypatch, "--models", "plain", "--methods", "linear") == 0
    assert "Not run: plain digits[5:10] linear seed 0" in capsys.readouterr().out
    assert recorded_runs(tmp_path).keys() == {"pretraining"}


def test_a_diverged_run_is_a_cell_of_the_table(tmp_path, monkeypatch, capsys):
    write_spec(tmp_path, ["full", "smartfrz", "linear"], lr=1e30)
    use(tmp_path, monkeypatch)
    drawn = tmp_path / "results" / "table2-demo"
    drawn.mkdir(parents=True)
    for name in DRAWN - {"runs.csv"}:
        (drawn / name).write_text("of runs that are gone")
    assert run_table(monkeypatch, "--models", "plain") == 0
    assert {path.name for path in drawn.iterdir()} == {
        *("runs.csv", "provenance.json", "table.csv", "table.md", "table.tex"),
    }
    said = capsys.readouterr().out
    assert "Not run: plain digits[5:10] linear seed 0" in said
    text = (drawn / "table.md").read_text()
    assert text.count("diverged 1/1") == 2
    assert text.count("not run (0/1)") == 2  # linear freezing of one network, all of the other
    runs = recorded_runs(tmp_path)
    assert {runs[method]["final_accuracy"] for method in ("full", "smartfrz")} == {None}


def test_a_model_is_counted_once_whatever_its_learning_rates(empty, monkeypatch, capsys):
    write_spec(empty, [*METHODS, "full gentle"])
    with (empty / "specs" / "table2.toml").open("a") as spec:
        spec.write('[fields."full gentle"]\nlayer_decay = 0.9\n')
    built = []
    build = compute.build_model
    monkeypatch.setattr(
        compute, "build_model", lambda *given: built.append(given[0]) or build(*given)
    )
    compute._size.cache_clear()
    assert run_table(monkeypatch, "--dry") == 0
    assert capsys.readouterr().out.count(", full training: ") == 2
    assert sorted(built) == ["plain", "residual"]
