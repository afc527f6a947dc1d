"""Tests of predictors that are trained for a table, once, from recorded runs."""

import shutil
import sys
import warnings
from dataclasses import replace

import pytest

from experiments import plan as planning
from experiments import policies
from experiments.plan import plan, recipes
from experiments.predictor import making
from experiments.predictor.cache import keep, kept, load_predictor
from experiments.spec import load_spec
from experiments.tables import queue
from scripts import table
from scripts.cli import run_command
from smartfrz import AttentionPredictor
from tests.helpers.digits import save_random_predictor

LEARNING = """
title = "Two runs of four steps."
methods = ["record"]
options.record = { records_per_epoch = 10, probe_images = 16 }

[predictor]
encoding = "drift"
tolerance = 1e-3
steps = 1000
lr = 0.01
weight_decay = 0.1
stride = 1
demo.steps = 3

[scales.demo]
models = ["residual", "plain"]
datasets = ["digits[5:10]"]
seeds = [0]
run = { epochs = 2, lr = 0.05, image_size = 16, train_images = 64, test_images = 32 }

[scales.small]
models = ["residual", "plain"]
datasets = ["digits[5:10]"]
seeds = [0]
run = { epochs = 3 }
"""
TABLE = """
title = "Some digits."
methods = ["full", "smartfrz", "smartfrz window 3", "smartfrz size 512"]
options.smartfrz = { predictor = "PREDICTOR", records_per_epoch = 2 }
options."smartfrz window 3" = { predictor = "drift window 3", records_per_epoch = 2 }
options."smartfrz size 512" = { predictor = "drift size 512", records_per_epoch = 2 }
predictors."drift window 3" = { window = 3 }
predictors."drift size 512" = { size = 512 }

[scales.demo]
models = ["plain"]
datasets = ["digits[0:5]"]
seeds = [0]
run = { epochs = 3, lr = 0.05, image_size = 16, train_images = 64, test_images = 32 }

[scales.small]
models = ["plain"]
datasets = ["digits[0:5]"]
seeds = [0]
run = { epochs = 3 }
"""
OWN = ["drift window 3", "drift size 512"]
SIZES = [(3, 1024), (30, 512)]
"""Windows and sizes of the predictors in `OWN`."""


def use(folder, patch):
    """Sets the folder of specs, cache and results for the commands."""
    patch.setattr("experiments.spec.SPECS", folder / "specs")
    patch.setenv("SMARTFRZ_CACHE", str(folder / "cache"))
    patch.chdir(folder)
    patch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own


def write_specs(folder):
    """Writes the specs of a table and of the recorded runs, and an existing predictor."""
    save_random_predictor(folder / "predictor")
    (folder / "specs").mkdir()
    (folder / "specs" / "predictor.toml").write_text(LEARNING)
    text = TABLE.replace("PREDICTOR", str(folder / "predictor"))
    (folder / "specs" / "table4.toml").write_text(text)


def run_table(patch, *arguments):
    """Returns the command's exit code."""
    patch.setattr(sys, "argv", ["table", "table4", "--scale", "demo", *arguments])
    try:
        run_command(table.main)
    except SystemExit as stopped:
        return stopped.code
    return 0


def watch(patch):
    """Returns lists that collect the fitted predictors and those of runs: windows and sizes."""
    fitted, used = [], []

    def fit(histories, training, **others):
        fitted.append((training.window, training.size))
        return original_fit(histories, training, **others)

    def policy(predictor, *others):
        used.append((predictor.window, predictor.size))
        return original_policy(predictor, *others)

    original_fit, original_policy = making.fit, policies.SmartFRZ
    patch.setattr(making, "fit", fit)
    patch.setattr(policies, "SmartFRZ", policy)
    return fitted, used


def run_files(folder, method):
    """Returns the run files of a method of the table."""
    found = planning.labelled_plan(load_spec("table4"), "demo").items()
    ids = [config.id for config, label in found if label == method]
    return [folder / "results" / "runs" / f"{each}.json" for each in ids]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that contains only specs, set for the commands."""
    write_specs(tmp_path)
    use(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which the table was run; the predictors fitted and used for it."""
    folder = tmp_path_factory.mktemp("made")
    write_specs(folder)
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        watched = watch(patch)
        assert run_table(patch) == 0
    return folder, watched


@pytest.fixture
def done(made, tmp_path, monkeypatch):
    """A copy of that folder, set for the commands; its predictor is still the original's."""
    shutil.copytree(made[0], tmp_path / "done")
    use(tmp_path / "done", monkeypatch)
    return tmp_path / "done"


def fingerprints(spec, scale="demo"):
    """Returns the fingerprints, by predictor."""
    options = [config.options for config in plan(spec, scale)]
    return {each.predictor: each.fingerprint for each in options if each is not None}


def test_a_plan_knows_the_predictors_by_what_they_will_be_made_from(folder):
    """No predictor is trained, no run is recorded and nothing is cached."""
    spec = load_spec("table4")
    own = recipes(spec, "demo")
    assert [(each.training.window, each.training.size) for each in own.values()] == SIZES
    assert {each.training.steps for each in own.values()} == {3}
    planned = fingerprints(spec)
    assert {name: planned.pop(name) for name in OWN} == {name: own[name].id for name in OWN}
    assert not (folder / "cache").exists()

    options = {"smartfrz": spec.options["smartfrz"]}
    without = replace(spec, methods=["full", "smartfrz"], options=options, predictors={})
    assert fingerprints(without) == planned


def test_a_predictor_made_from_something_else_makes_another_run(folder):
    spec, (name, _) = load_spec("table4"), OWN
    found = [fingerprints(spec)[name], fingerprints(spec, "small")[name]]
    changed = replace(spec, predictors=spec.predictors | {name: {"window": 4}})
    found.append(fingerprints(changed)[name])
    file = folder / "specs" / "predictor.toml"
    for old, new in [("tolerance = 1e-3", "tolerance = 2e-3"), ("epochs = 2", "epochs = 1")]:
        file.write_text(file.read_text().replace(old, new))
        found.append(fingerprints(spec)[name])
    assert len(set(found)) == len(found) == 5


@pytest.mark.parametrize(
    ("predictors", "says"),
    [
        ({"drift window 4": {"window": 4}}, "drift window 4 is not used here"),
        ({"drift window 3": {"windows": 3}}, "windows in predictors.drift window 3"),
        ({"drift window 3": 3}, "predictors.drift window 3 = 3 is not a table"),
        ({}, "There is no drift window 3"),
    ],
)
def test_a_mistake_in_a_table_s_predictors_is_named(folder, predictors, says):
    with pytest.raises(ValueError, match=says):
        plan(replace(load_spec("table4"), predictors=predictors), "demo")


def test_a_dry_run_names_the_predictors_and_makes_none(folder, monkeypatch, capsys):
    assert run_table(monkeypatch, "--dry") == 0
    said = capsys.readouterr().out
    assert "Predictors to train first: drift window 3, drift size 512.\n4 cells, 4 runs" in said
    assert not [file for file in (folder / "cache").rglob("*") if file.is_file()]
    assert not (folder / "results").exists()


def test_the_predictors_are_made_and_used(made, monkeypatch):
    folder, (fitted, used) = made
    assert fitted == SIZES
    assert used == [(5, 1024), *SIZES]
    monkeypatch.setenv("SMARTFRZ_CACHE", str(folder / "cache"))
    found = [AttentionPredictor.from_pretrained(each) for each in kept().values()]
    assert sorted((each.window, each.size) for each in found) == SIZES
    rows = (folder / "results" / "table4-demo" / "table.md").read_text()
    assert "SmartFRZ window 3" in rows and "SmartFRZ size 512" in rows
    assert "not run" not in rows


def test_a_predictor_is_made_once(done, monkeypatch, capsys):
    fitted, used = watch(monkeypatch)
    monkeypatch.setattr(queue, "record_history", None)
    for file in run_files(done, "smartfrz window 3"):
        file.unlink()
    assert run_table(monkeypatch) == 0
    assert (fitted, used) == ([], [(3, 1024)])
    said = capsys.readouterr().out
    assert "4 cells, 1 runs to do" in said and "Predictors to train" not in said


@pytest.mark.parametrize(
    ("lost", "made_again"), [([], []), (["full"], []), (["full", "smartfrz size 512"], [(30, 512)])]
)
def test_only_what_a_missing_run_needs_is_made_again(done, monkeypatch, lost, made_again):
    """The cache is not needed to draw finished runs."""
    shutil.rmtree(done / "cache")
    fitted, used = watch(monkeypatch)
    for method in lost:
        for file in run_files(done, method):
            file.unlink()
    assert run_table(monkeypatch) == 0
    assert fitted == used == made_again
    assert "not run" not in (done / "results" / "table4-demo" / "table.md").read_text()


def test_what_is_killed_while_it_is_written_is_made_anew(done, monkeypatch):
    recipe = recipes(load_spec("table4"), "demo")["drift window 3"]
    shutil.rmtree(kept()[recipe.id])
    original = AttentionPredictor.save_pretrained

    def killed(self, folder):
        original(self, folder)
        raise KeyboardInterrupt

    for file in run_files(done, "smartfrz window 3"):
        file.unlink()
    fitted, used = watch(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(AttentionPredictor, "save_pretrained", killed)
        assert run_table(patch) == 130
    assert recipe.id not in kept()
    assert used == []
    assert run_table(monkeypatch) == 0
    assert fitted == [(3, 1024)] * 2
    assert used == [(3, 1024)]
    assert set(kept()) == {each.id for each in recipes(load_spec("table4"), "demo").values()}


def test_a_predictor_that_is_not_kept_is_found_by_its_name(folder):
    name = str(folder / "predictor")
    assert load_predictor(name, "").window == 5
    recipe = recipes(load_spec("table4"), "demo")["drift window 3"]
    with pytest.raises(ValueError, match="There is no drift window 3"):
        load_predictor("drift window 3", recipe.id)
    keep(recipe.id, AttentionPredictor(window=3))
    assert load_predictor("drift window 3", recipe.id).window == 3
    assert load_predictor(name, "").window == 5


def test_of_several_processes_one_makes_predictors_and_the_others_wait(done, monkeypatch):
    own = recipes(load_spec("table4"), "demo")
    shutil.rmtree(done / "cache" / "predictors")
    waited = []
    monkeypatch.setattr(making, "is_distributed", lambda: True)
    monkeypatch.setattr(making.dist, "barrier", lambda: waited.append(len(kept())))
    for is_main in (False, True):
        monkeypatch.setattr(making, "is_main_process", lambda is_main=is_main: is_main)
        making.make_for_table(own, "demo", done / "results")
    assert waited == [0, 0, 1, 2]

    shutil.rmtree(done / "cache")
    with pytest.raises(ValueError, match="predictor --scale demo"):
        making.make_for_table(own, "demo", done / "results")


@pytest.mark.parametrize("name", ["table4", "table5"])
def test_the_project_s_own_tables_try_what_they_say(name):
    """The predictors differ in one value from the bundled one, and are used as in Table 2."""
    spec = load_spec(name)
    bundled = AttentionPredictor.from_pretrained()
    own = recipes(spec, "small")
    for label in spec.methods[1:]:
        _, what, value = label.split()
        used = spec.options[label]["predictor"]
        found = own[used].training if used in own else bundled
        assert getattr(found, what) == int(value)
        other = {"window": "size", "size": "window"}[what]
        assert getattr(found, other) == getattr(bundled, other)
    options = [{**values, "predictor": ""} for values in spec.options.values()]
    assert options == [{**load_spec("table2").options["smartfrz"], "predictor": ""}] * 4
