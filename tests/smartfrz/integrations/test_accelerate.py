"""Tests of a loop with Accelerate: prepared models, accumulation, checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from smartfrz import AttentionPredictor, Freezer, SmartFRZ
from smartfrz.inspect import load_run

STEPS, SAVED = 12, 8

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Accelerate's settings hold for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )


def batches(accumulated: int) -> DataLoader[tuple[Tensor, ...]]:
    pixels = torch.randn(
        4 * accumulated * STEPS, 3, 8, 8, generator=torch.Generator().manual_seed(1)
    )
    labels = (pixels.sum((1, 2, 3)) > 0).long()
    return DataLoader(TensorDataset(pixels, labels), batch_size=4)


class Run:
    """A loop as in the documentation."""

    def __init__(self, accumulated: int, **settings: Any) -> None:
        self.accelerator = Accelerator(
            cpu=True, gradient_accumulation_steps=accumulated, **settings
        )
        net = network()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            net, optimizer, batches(accumulated)
        )
        predictor = AttentionPredictor.from_pretrained()
        policy = SmartFRZ(predictor, interval=1, budget=0.7, total_steps=STEPS)
        self.freezer = Freezer(self.model, self.optimizer, policy)
        self.accelerator.register_for_checkpointing(self.freezer)

    def train(self, steps: int) -> None:
        self.model.train()
        skipped = self.freezer.steps * self.accelerator.gradient_accumulation_steps
        for x, y in self.accelerator.skip_first_batches(self.loader, skipped):
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(F.cross_entropy(self.model(x), y))
                self.freezer.step()
                self.optimizer.step()
                self.optimizer.zero_grad()
            if self.freezer.steps == steps and self.accelerator.sync_gradients:
                break


@pytest.mark.parametrize(
    ("accumulated", "settings"), [(1, {}), (3, {}), (1, {"mixed_precision": "bf16"})]
)
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, accumulated, settings):
    whole, stopped, resumed = (Run(accumulated, **settings) for _ in range(3))
    whole.train(STEPS)
    assert whole.freezer.compute_spent / STEPS == pytest.approx(0.7, abs=0.02)
    stopped.train(SAVED)
    assert 0 < len(stopped.freezer.frozen) < len(whole.freezer.frozen)
    stopped.accelerator.save_state(str(tmp_path))
    assert load_run(tmp_path).events == stopped.freezer.events
    resumed.accelerator.load_state(str(tmp_path))
    resumed.train(STEPS)
    assert resumed.freezer.events == whole.freezer.events
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
