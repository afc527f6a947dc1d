"""Tests of the callback for the Trainer of Lightning."""

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from smartfrz import BudgetPlan, Freezer, find_layers
from smartfrz.inspect import load_run
from smartfrz.integrations.lightning import SmartFRZCallback
from tests.helpers.scripted import Scripted

STEPS, SAVED = 12, 8

pytestmark = [
    # Of Lightning itself, whatever it trains.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*log_every_n_steps.*"),
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [
        part
        for inputs, outputs in ((3, 4), (4, 8), (8, 8))
        for part in (nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
    ]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


class Whole(LightningModule):
    """Calls itself in training_step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Inner(Whole):
    """Calls a module of its own in training_step, and a loss that has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss()

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])


class Manual(Inner):
    """Steps by itself, after two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        self.manual_backward(super().training_step(batch, index) / 2)
        if index % 2:
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]


class Several(Inner):
    """Two networks with an optimizer each, as a generator and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.other = network()
        self.automatic_optimization = False

    def training_step(self, batch: Any, _: int) -> None:  # type: ignore[override]
        optimizers: Any = self.optimizers()
        for net, optimizer in zip((self.other, self.net), optimizers, strict=True):
            self.manual_backward(self.loss(net(batch[0]), batch[1]))
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.other, self.net)]


class Stopped(Callback):
    """Ends the training run after some steps, as if it was killed."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == SAVED


def images() -> TensorDataset:
    seeded = torch.Generator().manual_seed(1)
    # Lightning resumes in the middle of an epoch with its first batch: an epoch has 4 steps.
    pixels = torch.randn(4 * 4, 3, 8, 8, generator=seeded)
    return TensorDataset(pixels, (pixels.sum((1, 2, 3)) > 0).long())


def fit(
    module: LightningModule,
    *callbacks: Callback,
    folder: Path | None = None,
    resume: Path | None = None,
    **settings: Any,
) -> Trainer:
    usual: dict[str, Any] = {"max_steps": STEPS, "max_epochs": 8, "logger": False}
    if folder:
        checkpoint = ModelCheckpoint(folder, "saved", every_n_train_steps=SAVED)
        callbacks = (*callbacks, checkpoint)
    trainer = Trainer(
        accelerator="cpu",
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **usual | settings,
    )
    trainer.fit(module, DataLoader(images(), batch_size=4), ckpt_path=resume and str(resume))
    return trainer


def freezer_of(callback: SmartFRZCallback) -> Freezer:
    assert callback.freezer is not None
    return callback.freezer


@pytest.mark.parametrize("kind", [Whole, Inner])
def test_a_budget_is_spent_and_logged(tmp_path, kind):
    module, callback = kind(), SmartFRZCallback(budget=0.7)
    logger = CSVLogger(tmp_path)
    trainer = fit(module, callback, logger=logger, log_every_n_steps=6)
    freezer = freezer_of(callback)
    assert freezer.compute_spent / STEPS == pytest.approx(0.7, abs=0.02)
    prefix = "net." if kind is Whole else ""
    names = [prefix + layer.name for layer in find_layers(network(), torch.zeros(1, 3, 8, 8))]
    assert [layer.name for layer in freezer.layers] == names
    share = len(freezer.frozen) / len(freezer.layers)
    assert trainer.callback_metrics["frozen_layers"] == pytest.approx(share)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"compute_spent", "frozen_layers"} <= rows[0].keys()
    for kind in ("gradients_mb", "optimizer_state_mb", "activations_mb"):
        values = [float(row[kind]) for row in rows if row[kind]]
        assert len(values) > 1 and values == sorted(values, reverse=True) and values[-1] < values[0]


def test_it_trains_like_a_plain_loop():
    """The same layers freeze at the same steps, and the weights are equal to the bit."""
    module, callback = Inner(), SmartFRZCallback(lambda steps: BudgetPlan(0.7, steps))
    fit(module, callback)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    plan = BudgetPlan(0.7, STEPS)
    freezer = Freezer(net, optimizer, plan, example_inputs=torch.zeros(1, 3, 8, 8))
    for x, y in STEPS // 4 * list(DataLoader(images(), batch_size=4)):
        F.cross_entropy(net(x), y).backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    assert freezer_of(callback).events == freezer.events != []
    assert not any(part.training for part in net if isinstance(part, nn.BatchNorm2d))
    for name, value in net.state_dict().items():
        assert torch.equal(value, module.net.state_dict()[name]), name


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Whole, {}),
        (Inner, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}),
        (Inner, {"precision": "bf16-mixed"}),
        (Manual, {}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value), "usual"),
)
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, kind, settings):
    whole, stopped, resumed = kind(), kind(), kind()
    callback, first, again = (SmartFRZCallback(budget=0.7) for _ in range(3))
    fit(whole, callback, **settings)
    fit(stopped, first, Stopped(), folder=tmp_path, **settings)
    assert 0 < len(freezer_of(first).frozen) < len(freezer_of(callback).frozen)
    assert load_run(tmp_path / "saved.ckpt").events == freezer_of(first).events
    fit(resumed, again, resume=tmp_path / "saved.ckpt", **settings)
    assert freezer_of(again).events == freezer_of(callback).events
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_with_several_optimizers_one_is_named():
    module, callback = Several(), SmartFRZCallback(budget=0.7, module="net", optimizer=1)
    fit(module, callback, max_steps=2 * STEPS)
    freezer = freezer_of(callback)
    assert freezer.steps == freezer.total_steps == STEPS
    assert freezer.compute_spent / STEPS == pytest.approx(0.7, abs=0.02)
    assert all(param.requires_grad for param in module.other.parameters())


def test_resumed_without_its_state_it_spends_the_budget_on_the_remaining_steps(tmp_path):
    fit(Whole(), Stopped(), folder=tmp_path)
    callback = SmartFRZCallback(budget=0.7)
    with pytest.warns(UserWarning, match=r"no state of SmartFRZCallback.*steps that are left"):
        fit(Whole(), callback, folder=tmp_path, resume=tmp_path / "saved.ckpt")
    freezer = freezer_of(callback)
    assert freezer.steps == freezer.total_steps == STEPS - SAVED


def test_another_run_with_the_same_callback_begins_anew():
    module, callback = Whole(), SmartFRZCallback(budget=0.7)
    fit(module, callback)
    first = freezer_of(callback)
    assert first.frozen
    fit(module, callback)
    assert freezer_of(callback) is not first
    assert len(freezer_of(callback).layers) == len(first.layers)


def test_frozen_layers_stay_as_they_are_beside_an_average_of_the_weights():
    class Kept(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self.weight = module.net[0].weight.detach().clone()
            if trainer.global_step == 1:
                self.first = self.weight

    module, kept = Whole(), Kept()
    callback = SmartFRZCallback(Scripted({0: ["net.0"]}))
    fit(module, callback, kept, EMAWeightAveraging(decay=0.9))
    assert torch.equal(kept.weight, kept.first)
    assert torch.equal(kept.weight, network()[0].weight)  # frozen from step 0
    assert not torch.equal(module.net[3].weight, network()[3].weight)


def test_callbacks_that_unfreeze_are_refused():
    class Backbone(Whole):
        @property
        def backbone(self) -> nn.Module:
            return self.net[:9]

    with pytest.raises(ValueError, match="BackboneFinetuning cannot be used beside"):
        fit(Backbone(), SmartFRZCallback(budget=0.7), BackboneFinetuning(1))


@pytest.mark.parametrize(
    ("module", "chosen", "message"),
    [
        (Several(), {}, r"2 optimizers: pass the index"),
        (Several(), {"optimizer": 1}, r"calls the modules \['other', 'net'\].*module='net'"),
        (Inner(), {"module": "net.0"}, r"calls the modules \['net'\].*together with it only"),
    ],
)
def test_what_is_meant_must_be_clear(module, chosen, message):
    with pytest.raises(ValueError, match=message):
        fit(module, SmartFRZCallback(budget=0.7, **chosen), max_steps=2 * STEPS)


def test_the_number_of_steps_must_be_known():
    with pytest.raises(ValueError, match=r"not known: pass max_steps, or max_epochs"):
        fit(Whole(), SmartFRZCallback(budget=0.7), max_steps=-1, max_epochs=-1)


def test_a_development_run_is_too_short_to_freeze():
    callback = SmartFRZCallback(budget=0.7)
    fit(Whole(), callback, fast_dev_run=2)
    assert freezer_of(callback).steps == 2 and not freezer_of(callback).frozen


def test_without_logs_nothing_is_logged():
    callback = SmartFRZCallback(budget=0.7)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r".*self\.log.*")
        fit(Whole(), callback, log_every_n_steps=0)
    assert freezer_of(callback).frozen


@pytest.mark.slow
def test_spawned_processes_freeze_the_same_layers(tmp_path):
    module, callback = Whole(), SmartFRZCallback(budget=0.7)
    settings = {"strategy": "ddp_spawn", "devices": 2, "max_steps": SAVED}
    fit(module, callback, folder=tmp_path, **settings)
    run = load_run(tmp_path / "saved.ckpt")
    assert run.steps == SAVED and run.frozen
    assert run.compute_spent is not None
    assert run.compute_spent / SAVED == pytest.approx(0.7, abs=0.02)
    assert callback.freezer is None  # the processes that trained have ended
