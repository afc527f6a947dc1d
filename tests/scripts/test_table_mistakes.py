"""Error messages of the table command: mistakes of the user, and a full disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.files import ROOT
from tests.helpers.disk import files_at_most
from tests.helpers.table_folder import files_in, run_table, use, write_spec


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder with specs only, with the command redirected to it."""
    write_spec(tmp_path)
    use(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize("for_what", ["checkpoint", "run file"])
def test_a_full_disk_gets_a_sentence_and_leaves_nothing_half_written(
    empty, monkeypatch, capsys, for_what
):
    if for_what == "run file":
        monkeypatch.setattr(
            "experiments.runs.training_loop.save_checkpoint", lambda state, path: None
        )
        monkeypatch.setattr("experiments.runs.execute.save_weights", lambda *_: None)
    with files_at_most(1000):
        assert run_table(monkeypatch, "--models", "residual") == 2
    *_, bar, error = capsys.readouterr().err.splitlines()
    assert "left" in bar
    assert error.startswith("error: ") and "File too large" in error
    kept = [name for name in files_in(empty / "cache") if not name.startswith("locks/")]
    assert kept == [] and files_in(empty / "results") == {}


def damage_predictor(folder: Path, how: str) -> None:
    weights = folder / "predictor" / "model.safetensors"
    if how == "missing":
        weights.unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        config = folder / "predictor" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden": 128}))


@pytest.mark.parametrize("how", ["missing", "truncated", "wrong shape"])
def test_a_bad_predictor_gets_a_sentence(empty, monkeypatch, capsys, how):
    damage_predictor(empty, how)
    assert run_table(monkeypatch) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and str(empty / "predictor") in said
    assert not (empty / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--scale", "small"], ["'small'", "demo"]),
        (["--models", "residual", "resnet51"], ["'resnet51'", "plain, residual"]),
        (["--datasets", "digits"], ["'digits'", "digits[5:10]"]),
        (["--scale", "huge"], ["'huge'", "demo"]),
        (["--epochs", "3"], ["--epochs"]),
    ],
)
def test_a_mistake_on_the_command_line_gets_a_sentence(
    empty, monkeypatch, capsys, arguments, names
):
    assert run_table(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert all(name in said.splitlines()[-1] for name in names)
    assert "Traceback" not in said
    assert not (empty / "results").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "names"),
    [
        ("augment = false", "epoch = 3", ["epoch", "epochs"]),
        ("augment = false", "augment =", ["table2.toml", "TOML"]),
        ('match = "smartfrz"', 'how = "square"', ["'square'", "cubic"]),
        ("epochs = 1,", "", ["epochs", "positive"]),  # of pretraining
        ('"residual", "plain"', '"resnet51"', ["'resnet51'", "resnet50"]),
        ('"digits[5:10]"', '"digits[5:11]"', ["digits[5:11]", "[0:10]"]),
        ('predictor = "', 'predictor = "rwa" #', ["rwa", "bundled"]),
        ("image_size = 16", "batch_size = 5000", ["5000", "training images"]),
    ],
)
def test_a_mistake_in_the_spec_gets_a_sentence(empty, monkeypatch, capsys, right, wrong, names):
    spec = empty / "specs" / "table2.toml"
    assert right in spec.read_text()
    spec.write_text(spec.read_text().replace(right, wrong))
    assert run_table(monkeypatch) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and all(name in said for name in names)


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_bug_keeps_its_traceback(empty, monkeypatch, error):
    def bug(*_, **__):
        raise error("a bug")

    monkeypatch.setattr("experiments.tables.table.execute", bug)
    with pytest.raises(error, match="a bug"):
        run_table(monkeypatch)


def test_an_interrupt_says_how_to_go_on(empty, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.tables.table.execute", interrupt)
    assert run_table(monkeypatch) == 130
    assert "resumes from the last checkpoint" in capsys.readouterr().err


def test_an_unknown_table_gets_a_sentence_from_the_real_command(tmp_path):
    command = [sys.executable, "-m", "scripts.table", "table99"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path / "results")],
        cwd=ROOT,
        env=os.environ | {"SMARTFRZ_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: There is no table 'table99': choose from ")
    assert "table2" in said
    assert list(tmp_path.iterdir()) == []
