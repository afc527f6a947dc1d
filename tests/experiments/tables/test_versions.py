"""Run files of other code: adding runs to them is refused, and asked for, it is said."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.files import ROOT, write_json_atomic
from experiments.runs.provenance import _code_hash, code_hash
from experiments.runs.run_files import read_run, sealed
from tests.helpers.table_folder import run_table, use, write_spec

METHODS = ["full", "autofreeze"]
ONE = ("--models", "residual")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which two runs and their pretraining were executed."""
    folder = tmp_path_factory.mktemp("done")
    write_spec(folder, METHODS)
    spec = folder / "specs" / "table2.toml"
    title, scale = spec.read_text().split("[options.linear]")[0], spec.read_text().split("[scales.")
    run = scale[2].replace("epochs = 6", "epochs = 1").replace("= 320", "= 160")
    spec.write_text(f"{title}[scales.{scale[1]}[scales.{run}")
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        assert run_table(patch, *ONE) == 0
    return folder


@pytest.fixture
def old(done, tmp_path, monkeypatch) -> Path:
    """A copy of it, with one run missing and the others computed by other code."""
    folder = tmp_path / "copied"
    shutil.copytree(done, folder)
    use(folder, monkeypatch)
    for file in (folder / "results" / "runs").iterdir():
        run = json.loads(file.read_text())
        if run["config"]["method"] == "autofreeze":
            file.unlink()
        else:
            del run["sha256"]
            write_json_atomic(file, sealed(run | {"code": "0123"}))
    return folder


def codes(folder: Path) -> dict[str, str]:
    runs = [read_run(file) for file in (folder / "results" / "runs").glob("*.json")]
    return {
        f"{run['config']['dataset']} {run['config']['method']}": run["code"] for run in runs if run
    }


def test_runs_are_not_added_to_runs_of_other_code(old, monkeypatch, capsys):
    assert run_table(monkeypatch, *ONE) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "2 finished runs are of other code than the present" in said and "0123 (2)" in said
    assert "FRESH=1" in said and "MIXED=1" in said
    assert len(codes(old)) == 2


def test_a_dry_run_says_which_runs_are_of_other_code(old, monkeypatch, capsys):
    assert run_table(monkeypatch, *ONE, "--dry") == 0
    assert "finished runs are of other code" in capsys.readouterr().out


def test_mixed_runs_are_said_in_the_caption(old, monkeypatch):
    assert run_table(monkeypatch, *ONE, "--mixed") == 0
    assert codes(old) == {
        "digits[0:5] full": "0123",
        "digits[5:10] full": "0123",
        "digits[5:10] autofreeze": code_hash(),
    }
    caption = (old / "results" / "table2-demo" / "table.md").read_text()
    assert "2 versions of the code (provenance.json)" in caption


@pytest.mark.slow
def test_fresh_runs_replace_those_of_other_code_which_are_kept(old, monkeypatch, capsys):
    assert run_table(monkeypatch, *ONE, "--fresh") == 0
    assert capsys.readouterr().err.count("because the code 0123 computed it") == 2
    assert set(codes(old).values()) == {code_hash()} and len(codes(old)) == 3
    kept = list((old / "results" / "runs").glob("*.json.stale"))
    assert [json.loads(file.read_text())["code"] for file in kept] == ["0123"] * 2
    caption = (old / "results" / "table2-demo" / "table.md").read_text()
    assert "versions of the code" not in caption


def test_a_change_in_how_flops_are_counted_changes_the_code_s_hash(tmp_path):
    shutil.copytree(ROOT / "smartfrz" / "cost", tmp_path / "smartfrz" / "cost")
    places = ("smartfrz/cost",)
    before = code_hash(places, tmp_path)
    assert before == code_hash(places, ROOT)
    file = tmp_path / "smartfrz" / "cost" / "flops.py"
    text = file.read_text()
    assert text.count("2 *") > 0
    file.write_text(text.replace("2 *", "3 *"))
    _code_hash.cache_clear()
    assert code_hash(places, tmp_path) != before
