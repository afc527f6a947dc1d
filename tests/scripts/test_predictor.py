"""End-to-end tests of ``make predictor`` on digits: output files, and resuming."""

import dataclasses
import json
import shutil
import sys

import pytest
import torch

from experiments.plan import plan, training_at
from experiments.predictor import making
from experiments.predictor.model_card import model_card
from experiments.predictor.recipes import Recipe
from experiments.runs.recording import history_file, is_recorded, load_history, record_history
from experiments.spec import SCALES, Spec, load_spec
from experiments.tables import queue
from scripts import histories
from scripts import predictor as command
from scripts.cli import run_command
from smartfrz import AttentionPredictor

SPEC = Spec(
    title="Two runs of four steps.",
    methods=["record"],
    scales={
        "demo": {
            **{"models": ["residual", "plain"], "datasets": ["digits[5:10]"], "seeds": [0]},
            "run": {
                **{"epochs": 2, "lr": 0.05, "image_size": 16, "augment": False},
                **{"train_images": 64, "test_images": 32},
                "pretraining": {"dataset": "digits[0:5]", "epochs": 0.2, "lr": 0.05},
            },
        }
    },
    options={"record": {"records_per_epoch": 10, "probe_images": 16}},
    predictor={
        **{"encoding": "drift", "tolerance": 1e-3, "steps": 1000, "lr": 0.01},
        **{"weight_decay": 0.1, "stride": 1, "demo": {"steps": 3}},
    },
)


def run(patch, folder, *options):
    places = ["--results", str(folder / "results"), "--output", str(folder / "predictor")]
    patch.setattr(sys, "argv", ["predictor", "--scale", "demo", *places, *options])
    patch.setattr(making, "load_spec", lambda table: SPEC)
    command.main()


def run_histories(patch, folder, *options):
    patch.setattr(sys, "argv", ["histories", "predictor", "--scale", "demo", *options])
    sys.argv += ["--results", str(folder / "results")]
    patch.setattr(histories, "load_spec", lambda table: SPEC)
    histories.main()


def count(monkeypatch, module, name):
    """Collects the arguments of a function's calls by a command."""
    calls, original = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: (calls.append(a), original(*a, **k))[1])
    return calls


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}


@pytest.mark.parametrize("encoding", ["drift", "raw"])
def test_writes_predictors_their_cards_and_how_good_they_are(made, encoding):
    facts = json.loads((made / "results" / "predictor-demo" / f"{encoding}.json").read_text())
    training = training_at("demo", SPEC.predictor)
    assert facts["training"] == dataclasses.asdict(training) | {"encoding": encoding}
    assert facts["training"]["steps"] == 3
    assert [each["model"] for each in facts["recordings"]] == ["residual", "plain"]
    # The residual network has 9 layers without the head, the plain one 6; four records each.
    layers = [load_size(each)[1] for each in facts["recordings"]]
    assert facts["held_out"]["examples"] in [3 * each for each in layers]
    folder = made / "predictor" / encoding
    assert (folder / "README.md").read_text() == model_card(facts)
    predictor = AttentionPredictor.from_pretrained(folder)
    assert predictor.encoding == encoding and predictor.threshold == facts["threshold"]


def load_size(recording):
    return {"residual": (4, 9), "plain": (4, 6)}[recording["model"]]


def test_keeps_histories_and_no_checkpoints(made, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(made / "cache"))
    for config in plan(SPEC, "demo"):
        history = load_history(config)
        assert history.weights.shape == (*load_size(vars(config)), 1024)
        assert load_history(config, size=4096).weights.shape[2] == 4096
        assert history.cka.shape == load_size(vars(config)) and history.cka.isfinite().all()
    assert not list((made / "cache" / "checkpoints").iterdir())
    assert len(list((made / "results" / "runs").iterdir())) == 2  # the pretraining runs


def test_done_again_it_does_nothing(copied, monkeypatch, capsys):
    shutil.rmtree(copied / "cache")
    before = contents(copied)
    run(monkeypatch, copied)
    assert contents(copied) == before
    assert capsys.readouterr().out.count("## Evaluation") == 3


def test_a_dry_run_says_what_is_to_do_and_does_nothing(copied, monkeypatch, capsys):
    before = contents(copied)
    run(monkeypatch, copied, "--dry")
    assert capsys.readouterr().out.count("made already.\n0 runs to do") == 3
    shutil.rmtree(copied / "predictor")
    shutil.rmtree(copied / "cache")
    run(monkeypatch, copied, "--dry")
    said = capsys.readouterr().out
    assert said.count("is to be made.\n4 runs to do") == 3 and "Data: " in said
    assert contents(copied).items() <= before.items()
    assert not (copied / "predictor").exists()


def test_does_again_only_what_is_lost(copied, monkeypatch):
    weights = copied / "predictor" / "drift" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    _, plain = plan(SPEC, "demo")
    history_file(plain).write_bytes(history_file(plain).read_bytes()[:-10])
    shutil.rmtree(copied / "cache" / "weights")
    recordings = count(monkeypatch, queue, "record_history")
    runs = count(monkeypatch, queue, "execute")
    fits = count(monkeypatch, making, "fit")
    with pytest.warns(UserWarning, match="cannot be read"):
        run(monkeypatch, copied)
    assert [config for config, _ in recordings] == [plain]
    assert [config.dataset for config, *_ in runs] == ["digits[0:5]"]
    assert [training.encoding for _, training, *_ in fits] == ["drift"]
    assert weights.read_bytes() == before


def test_a_recording_that_was_stopped_goes_on(copied):
    _, plain = plan(SPEC, "demo")
    expected = load_history(plain)
    history_file(plain).unlink()

    def stop(run, curves):
        if curves.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_history(plain, stop)
    assert not is_recorded(plain)
    steps = []
    record_history(plain, lambda run, curves: steps.append(curves.step))
    assert steps == [3, 4]
    for name, tensor in vars(load_history(plain)).items():
        assert torch.equal(tensor, getattr(expected, name))


def test_records_only_the_models_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    run_histories(monkeypatch, tmp_path, "--models", "plain")
    residual, plain = plan(SPEC, "demo")
    assert is_recorded(plain) and not is_recorded(residual)


def test_an_unknown_model_is_a_sentence(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: run_histories(monkeypatch, tmp_path, "--models", "vgg99"))
    assert "vgg99" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", SCALES)
def test_the_project_s_own_spec_is_whole(scale):
    spec = load_spec("predictor")
    assert training_at(scale, spec.predictor).steps > 0
    recordings = plan(spec, scale)
    assert {config.method for config in recordings} == {"record"} and len(recordings) > 1


def test_the_label_chooses_the_runs_the_settings_and_the_name(monkeypatch):
    asked = []
    monkeypatch.setattr(making, "load_spec", lambda name: (asked.append(name), SPEC)[1])
    (recipe,) = [making.bundled_recipes("demo", "contribution")["contribution"]]
    assert (recipe.training.label, recipe.training.encoding) == ("contribution", "drift")
    assert recipe.training.tolerance == 0.1
    others = making.bundled_recipes("demo")
    assert [*others] == ["drift", "raw", "outputs"]
    assert {each.training.label for each in others.values()} == {"cka"}
    assert asked == ["recordings", "predictor", "predictor", "recordings"]


def test_a_predictor_of_contributions_is_made_beside_the_others(copied, monkeypatch, capsys):
    run(monkeypatch, copied, "--label", "contribution")
    facts = json.loads((copied / "results" / "predictor-demo" / "contribution.json").read_text())
    assert facts["command"] == "make predictor LABEL=contribution SCALE=demo"
    assert facts["training"]["label"] == "contribution"
    card = (copied / "predictor" / "contribution" / "README.md").read_text()
    assert card == model_card(facts) and "lowers the loss on held-out examples" in card
    assert "at most 0.1 times" in card
    before = contents(copied)
    run(monkeypatch, copied, "--label", "contribution")
    assert contents(copied) == before


def test_recipes_differ_by_what_they_depend_on():
    recordings = plan(SPEC, "demo")
    training = training_at("demo", SPEC.predictor)
    other = dataclasses.replace(training, tolerance=0.5)
    recipes = [
        Recipe(training, tuple(recordings)),
        Recipe(other, tuple(recordings)),
        Recipe(training, tuple(recordings[:1])),
    ]
    assert len({recipe.id for recipe in recipes}) == 3
