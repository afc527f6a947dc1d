"""Tests of automatic mixed precision: autocast, and GradScaler, which needs a gradient."""

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD

from smartfrz import Freezer, find_layers
from tests.helpers.architectures import ARCHITECTURES, loss_of
from tests.helpers.scripted import Scripted

some_architectures = pytest.mark.parametrize("name", ["torchvision resnet", "timm deit"])


def train_all_but_head_frozen(
    name: str, dtype: torch.dtype, scaler: GradScaler, unscale_first: bool = False
) -> None:
    """Freezes everything but the head at step 2 and checks that only the head has moved."""
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    layers = find_layers(model)
    names = [layer.name for layer in layers if not layer.is_head]
    freezer = Freezer(model, optimizer, Scripted({2: names}), layers)
    for _ in range(10):
        model.train()
        with torch.autocast("cpu", dtype):
            loss = loss_of(model, architecture.inputs())
        scaler.scale(loss).backward()
        if unscale_first:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if freezer.step():
            before = {key: value.clone() for key, value in model.state_dict().items()}
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    after = model.state_dict()
    head = layers[-1].name
    assert {key for key in after if not torch.equal(after[key], before[key])} == {
        f"{head}.weight",
        f"{head}.bias",
    }


@some_architectures
def test_autocast_bfloat16(name: str):
    train_all_but_head_frozen(name, torch.bfloat16, GradScaler("cpu", enabled=False))


@pytest.mark.parametrize("unscale_first", [False, True])
@some_architectures
def test_grad_scaler_with_everything_but_the_head_frozen(name: str, unscale_first: bool):
    train_all_but_head_frozen(name, torch.float16, GradScaler("cpu", 2.0**8), unscale_first)


def test_a_step_that_the_scaler_skips_freezes_all_the_same():
    """With an infinite gradient in the step that freezes, nothing moves and training continues."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    freezer = Freezer(model, optimizer, Scripted({1: ["0"]}))
    scaler = GradScaler("cpu", 2.0**8)
    weights = []
    for factor in (1.0, float("inf"), 1.0):
        scaler.scale(factor * model(torch.ones(2, 3) * torch.randn(2, 1)).sum()).backward()
        freezer.step()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        weights.append([param.detach().clone() for param in model.parameters()])
    assert all(map(torch.equal, weights[0], weights[1]))
    assert all(map(torch.equal, weights[1][:4], weights[2][:4]))
    assert not torch.equal(weights[1][-1], weights[2][-1])
