"""End-to-end tests of the commands that make figures: output files, and resuming."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from experiments import plan as planning
from experiments.config import RunConfig
from experiments.plan import plan, training_at
from experiments.runs.recording import history_file
from experiments.spec import load_spec
from experiments.studies import figure_plans
from scripts import figure
from scripts.cli import run_command
from tests.helpers.digits import save_random_predictor

RUN = """
[scales.demo]
models = ["{models}"]
datasets = ["digits[5:10]"]
seeds = {seeds}

[scales.demo.run]
epochs = 2
lr = 0.05
image_size = 16
augment = false
train_images = 320
test_images = 64
pretraining = {{ dataset = "digits[0:5]", epochs = 0.2, lr = 0.05 }}
"""
TITLES = 'title = "Digits."\nmethods = {}\n'
RECORD = "[options.record]\nrecords_per_epoch = 10\nprobe_images = 16\n"
LABEL = (
    '[predictor]\nencoding = "drift"\ntolerance = 0.02\nsteps = 1\nlr = 0.01\nweight_decay = 0.1\n'
)
GROUPS = """
[options]
"frozen_group 1/2" = { group = 1, at = 0.5, groups = 2 }
"frozen_group 2/2" = { group = 2, at = 0.5, groups = 2 }
"""
NAMES = ("fig3", "fig4", "fig5", "counterfactual", "attention", "overhead")
SMARTFRZ = '[options.smartfrz]\npredictor = "{}"\nrecords_per_epoch = 5\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which all commands were executed once."""
    folder = tmp_path_factory.mktemp("made")
    save_random_predictor(folder / "predictor")
    run, runs = RUN.format(models="plain", seeds=[0]), RUN.format(models="plain", seeds=[0, 1])
    specs = {
        "fig3": TITLES.format(["full"]) + run,
        "fig4": TITLES.format(["record"]) + RECORD + runs,
        # The recording is one of Figure 4's.
        "counterfactual": TITLES.format(["full", "record", "frozen_group 1/2", "frozen_group 2/2"])
        + GROUPS
        + RECORD
        + run,
        # The runs of Figure 4, which are recorded before attention is measured.
        "evidence": TITLES.format(["record"]) + RECORD + runs,
        "predictor": TITLES.format(["record"]) + RECORD + LABEL + run,
        "table2": TITLES.format(["smartfrz"]) + SMARTFRZ.format(folder / "predictor") + run,
        "fig5": TITLES.format(["smartfrz"]) + SMARTFRZ.format(folder / "predictor") + runs,
    }
    (folder / "specs").mkdir()
    for name, text in specs.items():
        (folder / "specs" / f"{name}.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        for name in NAMES:
            assert call(patch, folder, name) == 0
    return folder


@pytest.fixture
def workplace(made, tmp_path, monkeypatch):
    """A copy of that folder, with the commands redirected to it."""
    shutil.copytree(made, tmp_path / "copy")
    use(tmp_path / "copy", monkeypatch)
    return tmp_path / "copy"


def use(folder, patch):
    """Redirects the commands' specs and cache to a folder."""
    patch.setattr("experiments.spec.SPECS", folder / "specs")
    patch.setenv("SMARTFRZ_CACHE", str(folder / "cache"))
    patch.setattr(warnings, "showwarning", warnings.showwarning)  # the commands set their own
    patch.setattr("experiments.studies.overhead._ENOUGH_MS", 1)
    patch.setattr("experiments.studies.overhead.LAYER_COUNTS", (2, 4))
    planning.fingerprint.cache_clear()


def call(patch, folder, name, *options):
    """The exit code of a command."""
    if name == "attention":
        options = ("--predictor", str(folder / "predictor"), *options)
    places = ["--scale", "demo", "--results", str(folder / "results")]
    patch.setattr(sys, "argv", ["figure", name, *places, *options])
    try:
        run_command(figure.main)
    except SystemExit as stopped:
        assert isinstance(stopped.code, int)
        return stopped.code
    return 0


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "frames", "found"),
    [
        ("fig3", {"layers", "histogram"}, "of the 5 layers with more weights"),
        ("fig4", {"curves", "layers", "order"}, "of 2 runs"),
        ("fig5", {"memory"}, "plain: PyTorch's freezing"),
        ("counterfactual", {"costs", "correlations"}, "| Remaining contribution |"),
        ("attention", {"ages", "runs", "example"}, "in 2 runs of plain"),
        ("overhead", {"quantities", "by_layers"}, "| Predictor: size | MB | 4 | 4.15 |"),
    ],
)
def test_writes_tables_figure_and_caption(made, name, frames, found):
    folder = made / "results" / f"{name}-demo"
    drawn = {f"{name}.png", f"{name}.pdf", f"{name}.md", "facts.json", "provenance.json"}
    drawn |= {"fig5b.png", "fig5b.pdf"} if name == "fig5" else set()
    assert {file.name for file in folder.iterdir()} == drawn | {f"{each}.csv" for each in frames}
    text = (folder / f"{name}.md").read_text()
    assert text.startswith(f"![{name}]({name}.png)\n\n") and found in text
    assert f": make {name} SCALE=demo." in text and ", 1 thread, torch " in text


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_says_what_is_to_do_and_does_nothing(workplace, monkeypatch, capsys, name):
    before = {file: file.read_bytes() for file in workplace.rglob("*") if file.is_file()}
    assert call(monkeypatch, workplace, name, "--dry") == 0
    said = capsys.readouterr().out
    assert " already" in said and "0 runs to do" in said
    assert {file: file.read_bytes() for file in before} == before

    shutil.rmtree(workplace / "results")
    shutil.rmtree(workplace / "cache" / "weights")
    runs = {"fig3": 1, "fig5": 3, "counterfactual": 4}.get(
        name, 0
    )  # the runs of Figure 4 are recorded
    assert call(monkeypatch, workplace, name, "--dry") == 0
    said = capsys.readouterr().out
    assert "To be " in said and f"{runs} runs to do" in said
    assert ("  plain digits[0:5] full seed 0, 0.2 epochs" in said) is (runs > 0)
    assert ("Disk: up to" in said) is (runs > 0)
    assert not (workplace / "results").exists()


def test_a_dry_run_says_why_it_can_t_be_started(workplace, monkeypatch, capsys):
    shutil.rmtree(workplace / "cache")
    assert call(monkeypatch, workplace, "attention", "--dry") == 0
    assert "Measured already." in capsys.readouterr().out
    shutil.rmtree(workplace / "results")
    assert call(monkeypatch, workplace, "attention", "--dry") == 0
    assert "Cannot be started: No run is recorded" in capsys.readouterr().out


def test_done_again_they_measure_nothing_and_write_the_same(workplace, monkeypatch):
    for missing in ("cache/weights", "cache/checkpoints"):
        shutil.rmtree(workplace / missing)
    monkeypatch.setattr(figure_plans.gradients, "gradients_after", None)
    monkeypatch.setattr(figure_plans, "record_all", None)
    monkeypatch.setattr(figure_plans.counterfactual, "costs", None)
    monkeypatch.setattr(figure_plans.attention, "look", None)
    monkeypatch.setattr(figure_plans.memory_over_time, "memory_over_time", None)
    monkeypatch.setattr(figure_plans.overhead, "training_times", None)
    for name in NAMES:
        folder = workplace / "results" / f"{name}-demo"
        before = contents(folder)
        assert call(monkeypatch, workplace, name) == 0
        assert contents(folder) == before


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("{")])
def test_a_run_that_is_lost_is_not_left_out_of_figure_5b(workplace, monkeypatch, capsys, damage):
    for file in (workplace / "results" / "runs").iterdir():
        damage(file)
    assert call(monkeypatch, workplace, "fig5") == 2
    assert "smartfrz seed 0 was measured, but its run file" in capsys.readouterr().err


def test_gradients_are_of_the_run_after_its_pretraining(made):
    facts = json.loads((made / "results" / "fig3-demo" / "facts.json").read_text())
    assert facts["shown"] == 3  # of the six layers without the head
    assert facts["run"]["pretraining"]["dataset"] == "digits[0:5]"
    runs = [json.loads(file.read_text()) for file in (made / "results" / "runs").iterdir()]
    assert [run["config"]["dataset"] for run in runs].count("digits[0:5]") == 1


def test_other_runs_are_measured_again(workplace, monkeypatch, capsys):
    first, second = plan(load_spec("evidence"), "demo")
    history_file(first).unlink()
    assert call(monkeypatch, workplace, "attention") == 0
    said = capsys.readouterr().out
    assert "in 1 run of" in said and "(one run)" in said
    history_file(second).unlink()
    assert call(monkeypatch, workplace, "attention") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: No run is recorded at scale demo: make evidence")


def test_without_evidence_the_predictor_s_own_runs_are_measured(workplace, monkeypatch):
    spec = workplace / "specs" / "evidence.toml"
    spec.write_text(spec.read_text().replace("scales.demo", "scales.small"))
    configs = figure_plans.recordings("demo")[1]
    assert configs == plan(load_spec("predictor"), "demo")
    assert all(isinstance(config, RunConfig) for config in configs)


def test_the_label_s_tolerance_is_the_scale_s(workplace):
    def tolerance(scale: str) -> float:
        return training_at(scale, load_spec("predictor").predictor).tolerance

    spec = workplace / "specs" / "predictor.toml"
    assert tolerance("demo") == 0.02
    spec.write_text(
        spec.read_text().replace(
            "[scales.demo]", "[predictor.demo]\ntolerance = 0.1\n[scales.demo]"
        )
    )
    assert tolerance("demo") == 0.1
    assert tolerance("small") == 0.02


def test_a_missing_predictor_gets_a_sentence(workplace, monkeypatch, capsys):
    (workplace / "predictor" / "config.json").unlink()
    assert call(monkeypatch, workplace, "attention") == 2
    assert "config.json" in capsys.readouterr().err
