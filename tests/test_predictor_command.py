"""``make predictor`` from end to end, on digits: what it writes, and what it does not do again."""

import dataclasses
import json
import shutil
import sys

import pytest
import torch

from experiments.card import model_card
from experiments.histories import history_file, is_recorded, load_history, record_history
from experiments.plan import SCALES, Spec, load_spec, plan
from experiments.series import missing_prerequisites, prerequisites
from scripts import predictor as command
from scripts.cli import run_command
from smartfrz import AttentionPredictor

SPEC = Spec(
    title="Two trainings of four steps.",
    methods=["record"],
    scales={
        "demo": {
            **{"models": ["residual", "plain"], "datasets": ["digits[5:10]"], "seeds": [0]},
            "run": {
                **{"epochs": 2, "lr": 0.05, "image_size": 16, "augment": False},
                **{"train_images": 64, "test_images": 32},
            },
        }
    },
    options={"record": {"records_per_epoch": 10, "probe_images": 16}},
    predictor={
        **{"encoding": "displacement", "tolerance": 1e-5, "steps": 1000, "batch_size": 8},
        **{"lr": 0.01, "momentum": 0.9, "demo": {"steps": 3}},
    },
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which the command was run once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMARTFRZ_CACHE", str(folder / "cache"))
        run(patch, folder)
    return folder


@pytest.fixture
def copied(made, tmp_path, monkeypatch):
    """A copy of that folder, to be damaged."""
    shutil.copytree(made, tmp_path / "copied")
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "copied" / "cache"))
    return tmp_path / "copied"


def run(patch, folder, *options):
    places = ["--results", str(folder / "results"), "--output", str(folder / "predictor")]
    patch.setattr(sys, "argv", ["predictor", "--scale", "demo", *places, *options])
    patch.setattr(command, "load_spec", lambda table: SPEC)
    command.main()


def count(monkeypatch, name):
    """Counts the calls of a function that the command uses."""
    calls, original = [], getattr(command, name)
    monkeypatch.setattr(command, name, lambda *a, **k: (calls.append(a), original(*a, **k))[1])
    return calls


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}


def test_writes_a_predictor_its_card_and_how_good_it_is(made):
    facts = json.loads((made / "results" / "predictor-demo.json").read_text())
    assert facts["training"] == {k: v for k, v in SPEC.predictor.items() if k != "demo"} | {
        "steps": 3
    }
    assert [each["model"] for each in facts["recordings"]] == ["residual", "plain"]
    # The residual network has 11 layers without the head, the plain one 6; four records each.
    examples = {model: score["examples"] for model, score in facts["held_out"].items()}
    assert examples == {"residual": 33, "plain": 18}
    assert (made / "predictor" / "README.md").read_text() == model_card(facts)
    assert AttentionPredictor.from_pretrained(made / "predictor").encoding == "displacement"


def test_keeps_histories_and_no_checkpoints(made, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(made / "cache"))
    residual, plain = plan(SPEC, "demo")
    assert load_history(residual).weights.shape == (4, 11, 1024)
    assert load_history(plain).cka.shape == (4, 6)
    assert load_history(plain).cka.isfinite().all()
    assert not list((made / "cache" / "checkpoints").iterdir())
    assert len(list((made / "results" / "runs").iterdir())) == 2  # the references


def test_done_again_it_does_nothing(copied, monkeypatch, capsys):
    shutil.rmtree(copied / "cache")
    before = contents(copied)
    run(monkeypatch, copied)
    assert contents(copied) == before
    assert "How good it is" in capsys.readouterr().out


def test_does_again_only_what_is_lost(copied, monkeypatch):
    weights = (copied / "predictor" / "model.safetensors").read_bytes()
    shutil.rmtree(copied / "predictor")
    recordings, trainings = (
        count(monkeypatch, "record_history"),
        count(monkeypatch, "train_predictor"),
    )
    run(monkeypatch, copied)
    assert (len(recordings), len(trainings)) == (0, 0)
    assert (copied / "predictor" / "model.safetensors").read_bytes() == weights

    shutil.rmtree(copied / "cache" / "predictors")
    shutil.rmtree(copied / "cache" / "weights")
    _, plain = plan(SPEC, "demo")
    history_file(plain).write_bytes(history_file(plain).read_bytes()[:-10])
    (copied / "results" / "predictor-demo.json").unlink()
    references = count(monkeypatch, "execute")
    with pytest.warns(UserWarning, match="can't be read"):
        run(monkeypatch, copied)
    assert [config for config, _ in recordings] == [plain]
    assert [config for config, *_ in references] == prerequisites(plain)
    assert len(trainings) == 3
    assert (copied / "predictor" / "model.safetensors").read_bytes() == weights


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
    assert torch.equal(load_history(plain).weights, expected.weights)
    assert torch.equal(load_history(plain).cka, expected.cka)


def test_records_only_the_models_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    run(monkeypatch, tmp_path, "--models", "plain")
    residual, plain = plan(SPEC, "demo")
    assert is_recorded(plain) and not is_recorded(residual)
    assert not (tmp_path / "predictor").exists()


def test_an_unknown_model_is_a_sentence(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: run(monkeypatch, tmp_path, "--models", "vgg99"))
    assert "vgg99" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_prerequisites_come_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    run_of = {**SPEC.scales["demo"]["run"], "pretraining": {"dataset": "digits[0:5]", "epochs": 1}}
    scale = {**SPEC.scales["demo"], "models": ["plain"], "seeds": [0, 1], "run": run_of}
    recordings = plan(dataclasses.replace(SPEC, scales={"demo": scale}), "demo")
    pretraining, reference = missing_prerequisites(recordings, tmp_path / "runs")
    assert (pretraining.dataset, pretraining.method) == ("digits[0:5]", "full")
    assert (reference.dataset, reference.method) == ("digits[5:10]", "full")
    assert reference.pretraining and reference.seed not in (0, 1)
    assert prerequisites(reference) == [pretraining]


@pytest.mark.parametrize("scale", SCALES)
def test_the_project_s_own_spec_is_whole(scale):
    spec = load_spec("predictor")
    assert command.training_at(scale, spec.predictor).steps > 0
    recordings = plan(spec, scale)
    assert {config.method for config in recordings} == {"record"}
    # CIFAR-100 alone is learned from: CIFAR-10 is what the predictor is tested on.
    assert not [config for config in recordings if config.dataset.startswith("cifar10[")]
    assert all(config.dataset.startswith(("digits", "cifar100")) for config in recordings)


def test_jobs_differ_by_what_they_depend_on():
    recordings = plan(SPEC, "demo")
    training = command.training_at("demo", SPEC.predictor)
    other = dataclasses.replace(training, tolerance=0.5)
    jobs = {
        command.job_id(recordings, training),
        command.job_id(recordings, other),
        command.job_id(recordings[:1], training),
    }
    assert len(jobs) == 3
