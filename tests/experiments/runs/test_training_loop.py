"""Single runs: learning, measurements, run files, pretrained weights."""

import math
import re
import time
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from experiments.config import Pretraining
from experiments.models.pretraining import load_pretrained, pretraining_run
from experiments.models.registry import build_model
from experiments.models.weights import has_weights, weights_file
from experiments.runs import training_loop as training
from experiments.runs.execute import execute, is_finished, run_file
from experiments.runs.run_files import CONFIG_KEYS, RUN_KEYS, read_run
from experiments.runs.setup import prepare
from experiments.runs.training_loop import train
from smartfrz import Freezer
from smartfrz.cost.flops import forward_macs, training_flops
from smartfrz.graph.tracing import trace
from tests.helpers.digits import ignore, save_random_predictor, tiny_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))


def recorded(config, folder, **options):
    """Executes a run and returns the content of its run file."""
    execute(config, folder, "make test", ignore, ignore, **options)
    run = read_run(run_file(config, folder))
    assert run is not None
    return run


def test_a_run_learns():
    _, curves = train(tiny_run(epochs=5), ignore, ignore)
    assert curves.accuracy[-1] > 0.9
    assert curves.loss[-1] < 0.5 * curves.loss[0]


def test_the_same_config_gives_the_same_run_and_another_seed_another():
    losses = []
    for changes in ({"seed": 1}, {"seed": 1}, {"seed": 2}):
        config = tiny_run(epochs=1, **changes)
        _, curves = train(config, ignore, ignore)
        losses.append(curves.loss)
        training.cache_folder("checkpoints").joinpath(f"{config.id}.pt").unlink()
    assert losses[0] == losses[1] != losses[2]


def test_the_record_has_all_that_tables_are_made_of(tmp_path):
    config = tiny_run("autofreeze")
    assert not is_finished(config, tmp_path)
    run = recorded(config, tmp_path)
    assert is_finished(config, tmp_path)
    assert run.keys() >= RUN_KEYS
    assert run["config"].keys() >= CONFIG_KEYS
    assert run["id"] == config.id
    assert run["status"] == "finished"
    assert run["steps"] == 30 and run["steps_per_epoch"] == 10
    assert run["eval_steps"] == [10, 20, 30]
    assert len(run["accuracy"]) == len(run["loss"]) == len(run["frozen_fraction"]) == 3
    assert run["final_accuracy"] == run["accuracy"][-1]
    assert run["peak_memory_bytes"] > 2**20
    assert run["torch"] == torch.__version__
    assert run["command"] == "make test"


@pytest.mark.parametrize("method", ["autofreeze", "smartfrz", "linear", "displacement"])
def test_the_record_says_when_each_layer_froze(tmp_path, method):
    options = {
        "smartfrz": save_random_predictor(tmp_path / "predictor"),
        "displacement": {"threshold": 0.01},
    }
    run = recorded(tiny_run(method, options=options.get(method)), tmp_path / "runs")
    frozen, layers = run["frozen"], run["layers"]
    assert frozen and set(frozen) < set(layers)
    assert layers[-1] not in frozen  # the head
    assert all(0 <= step < 30 for step in frozen.values())
    fractions = [
        sum(step < end for step in frozen.values()) / len(layers) for end in run["eval_steps"]
    ]
    assert run["frozen_fraction"] == fractions


def test_full_training_costs_three_times_its_forward_passes(tmp_path):
    config = tiny_run(model="plain", epochs=1)
    run = recorded(config, tmp_path)
    macs, side = 0, 16
    widths = [3, 16, 16, 32, 32, 64, 64]
    for i in range(6):
        macs += side**2 * 9 * widths[i] * widths[i + 1]
        side //= 1 + i % 2
    macs += 64 * 5
    assert run["tflops"] == pytest.approx(10 * 32 * 3 * 2 * macs / 1e12, rel=1e-9)
    assert run["tflops"] == run["tflops_full"]


@pytest.mark.parametrize("model", ["residual", "attention"])
def test_compute_follows_the_layers_that_still_train(tmp_path, model):
    config = tiny_run("autofreeze", model=model)
    run, curves = train(config, ignore, ignore)
    twin = prepare(tiny_run(model=model)).model
    calls = trace(twin, torch.zeros(1, 3, 16, 16))
    assert curves.flops_paper != curves.flops
    names = {layer.name: [id(param) for param in layer.params] for layer in run.freezer.layers}
    own = dict(zip(map(id, run.model.parameters()), twin.parameters(), strict=True))
    flops = 0
    for step in range(curves.step):
        gone = {i for name, at in run.freezer.frozen.items() if at < step for i in names[name]}
        flops += 32 * training_flops(calls, [param for i, param in own.items() if i not in gone])
    assert curves.flops == flops
    assert curves.flops < curves.step * run.full_flops_per_step == 30 * 32 * 6 * forward_macs(calls)


def test_overhead_is_the_time_spent_deciding_and_freezing(monkeypatch):
    decide = Freezer.step

    def slow_step(freezer):
        time.sleep(0.02)
        return decide(freezer)

    monkeypatch.setattr(Freezer, "step", slow_step)
    _, curves = train(tiny_run("autofreeze", epochs=1), ignore, ignore)
    assert 10 * 0.02 < curves.overhead_seconds < curves.train_seconds


def test_evaluation_is_off_the_clock(monkeypatch):
    def slow_scores(run, images):
        time.sleep(0.3)
        return {"accuracy": 0.5}

    monkeypatch.setattr(training, "test_scores", slow_scores)
    started = time.perf_counter()
    _, curves = train(tiny_run(epochs=2), ignore, lambda run, curves: time.sleep(0.3))
    elapsed = time.perf_counter() - started
    assert curves.eval_seconds >= 0.6
    assert curves.train_seconds + curves.eval_seconds + 0.6 < elapsed


def test_the_curve_is_measured_on_fewer_images_than_the_end(monkeypatch):
    asked = []
    scores = {"accuracy": 0.5}
    monkeypatch.setattr(training, "test_scores", lambda run, images: asked.append(images) or scores)
    train(tiny_run(curve_images=50), ignore, ignore)
    assert asked == [50, 50, 0]


def test_accuracy_is_the_fraction_that_is_right():
    run = prepare(tiny_run())
    run.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    nn.init.zeros_(run.model[1].weight)
    run.model[1].bias.data = torch.tensor([0.0, 0, 1, 0, 0])
    labels = torch.cat([labels for _, labels in run.batches.test()])
    assert training.test_scores(run, 0)["accuracy"] == (labels == 2).sum().item() / len(labels)
    assert training.test_scores(run, 40)["accuracy"] == (labels[:40] == 2).sum().item() / 40


def test_a_fraction_of_an_epoch_stops_within_it():
    _, curves = train(tiny_run(epochs=1.5), ignore, ignore)
    assert curves.eval_steps == [10, 15]


def test_the_learning_rate_falls_to_zero_as_a_cosine():
    rates = []
    train(
        tiny_run(epochs=2, lr=0.1),
        lambda run, curves: rates.append(run.optimizer.param_groups[0]["lr"]),
        ignore,
    )
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * s / 20)) for s in range(1, 21)])


@pytest.mark.parametrize("method", ["full", "smartfrz", "autofreeze", "linear", "displacement"])
def test_a_diverged_run_stops_and_is_recorded_as_such(tmp_path, method):
    options = save_random_predictor(tmp_path / "predictor") if method == "smartfrz" else None
    config = tiny_run(method, lr=1e30, options=options)
    run = recorded(config, tmp_path / "runs", keep_weights=True)
    assert run["status"] == "diverged"
    assert run["final_accuracy"] is None
    assert not math.isfinite(run["loss"][-1])
    assert run["steps"] == 10
    assert is_finished(config, tmp_path / "runs")
    assert not has_weights(config)


@pytest.mark.parametrize(
    "changes", [{"amp": "bf16"}, {"amp": "fp16"}, {"channels_last": True}], ids=str
)
def test_mixed_precision_and_layout_change_little(changes):
    epochs = 0.3 if "amp" in changes else 1  # slow on many CPUs
    _, curves = train(tiny_run(epochs=epochs), ignore, ignore)
    run, other = train(tiny_run(epochs=epochs, **changes), ignore, ignore)
    assert other.loss != curves.loss
    assert other.loss == pytest.approx(curves.loss, rel=0.05)
    assert all(param.dtype == torch.float32 for param in run.model.parameters())


@pytest.mark.parametrize(
    ("method", "changes"), [("linear", {"channels_last": True}), ("autofreeze", {"amp": "bf16"})]
)
def test_layers_freeze_in_mixed_precision_and_any_layout(method, changes):
    run, curves = train(tiny_run(method, epochs=1.5, test_images=32, **changes), ignore, ignore)
    assert run.freezer.frozen
    assert curves.flops < curves.step * run.full_flops_per_step


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run():
    _, curves = train(tiny_run("linear", epochs=1, model="plain"), ignore, ignore)
    _, compiled = train(tiny_run("linear", epochs=1, model="plain", compile=True), ignore, ignore)
    assert compiled.loss == pytest.approx(curves.loss, rel=1e-3)
    assert compiled.flops == curves.flops


@pytest.fixture
def pretrained(tmp_path):
    """The config of a fine-tuning run, and the run file of its pretraining."""
    source = Pretraining("digits[0:5]", epochs=2, train_images=320, lr=0.05)
    config = tiny_run(pretraining=vars(source))
    own = pretraining_run(config)
    assert own is not None
    return config, recorded(own, tmp_path / "runs", keep_weights=True)


def test_fine_tuning_starts_from_the_pretrained_weights_with_a_head_of_its_own(pretrained):
    config, source = pretrained
    run = prepare(config)
    own = pretraining_run(config)
    assert own is not None
    saved = load_file(weights_file(own))
    weights = run.model.state_dict()
    differ = {name for name, value in weights.items() if not torch.equal(saved[name], value)}
    head = run.freezer.layers[-1].name
    assert differ == {f"{head}.weight", f"{head}.bias"}
    assert source["config"]["dataset"] == "digits[0:5]"


def test_the_record_says_where_the_first_weights_come_from(pretrained, tmp_path):
    config, source = pretrained
    run = recorded(config, tmp_path / "runs")
    digest = run["pretrained"].pop("sha256")
    assert re.fullmatch("[0-9a-f]{12}", digest)
    assert run["pretrained"] == {"source": "digits[0:5]", "accuracy": source["final_accuracy"]}
    assert source["pretrained"] is None


def test_fine_tuning_without_pretrained_weights_is_an_error_that_names_the_run():
    config = tiny_run(pretraining={"dataset": "digits[0:5]", "epochs": 2})
    no_weights = r"There are no final weights of residual digits\[0:5\] full seed 0"
    with pytest.raises(ValueError, match=no_weights):
        prepare(config)


def test_published_weights_that_cannot_be_had_are_an_error_with_advice(monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    config = tiny_run(model="resnet50", pretraining={"dataset": "imagenet"})
    with pytest.raises(ValueError, match=r"published weights of resnet50.*URLError.*go online"):
        prepare(config)


def test_published_position_embeddings_are_resampled_to_the_resolution(monkeypatch):
    published = build_model("deit_tiny", 1000, 224).state_dict()
    monkeypatch.setattr("experiments.models.pretraining.published_weights", lambda model: published)
    config = tiny_run(model="deit_tiny", image_size=128, pretraining={"dataset": "imagenet"})
    model = build_model("deit_tiny", 5, 128)
    load_pretrained(config, model, ["head"])
    own = model.state_dict()
    assert own["pos_embed"].shape == (1, 65, 192)
    assert torch.equal(own["pos_embed"][:, 0], published["pos_embed"][:, 0])
    assert torch.equal(own["blocks.0.attn.qkv.weight"], published["blocks.0.attn.qkv.weight"])
    assert own["head.weight"].shape == (5, 192)


def test_pretrained_weights_of_another_shape_get_a_sentence(monkeypatch):
    published = build_model("deit_tiny", 1000, 224).state_dict()
    monkeypatch.setattr("experiments.models.pretraining.published_weights", lambda model: published)
    config = tiny_run(model="deit_tiny", image_size=32, pretraining={"dataset": "imagenet"})
    model = build_model("deit_tiny", 5, 32)
    with pytest.raises(ValueError, match="do not fit deit_tiny: patch_embed"):
        load_pretrained(config, model, ["head"])
