"""Tests of a freezer that the optimizer calls by itself, as in training scripts."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from smartfrz import Freezer
from tests.helpers.scripted import Scripted

SCRIPT = {1: ["0"], 3: ["2"]}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )


def loss_of(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(step)
    return model(torch.randn(8, 4)).square().mean()


def weights_by_hand(steps: int = 6) -> dict[str, Tensor]:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, steps)
    freezer = Freezer(model, optimizer, Scripted(SCRIPT))
    for step in range(steps):
        loss_of(model, step).backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return model.state_dict()


def hidden(optimizer: Optimizer) -> Freezer:
    """A freezer that the optimizer calls; the model is that of the optimizer's parameters."""
    model = optimizer.model  # type: ignore[attr-defined]
    freezer = Freezer(model, optimizer, Scripted(SCRIPT))
    freezer.step_before(optimizer)
    return freezer


def prepared() -> tuple[nn.Module, SGD]:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.model = model  # type: ignore[attr-defined]
    return model, optimizer


def check(model: nn.Module, freezer: Freezer) -> None:
    assert freezer.frozen == {"0": 1, "2": 3}
    expected = weights_by_hand()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_it_is_as_if_step_was_called_by_hand():
    for before in (True, False):  # the scheduler wraps the optimizer's step, too
        model, optimizer = prepared()
        if before:
            scheduler = CosineAnnealingLR(optimizer, 6)
            freezer = hidden(optimizer)
        else:
            freezer = hidden(optimizer)
            scheduler = CosineAnnealingLR(optimizer, 6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(6):
                loss_of(model, step).backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        check(model, freezer)


def test_steps_that_a_scaler_skips_are_no_steps():
    model, optimizer = prepared()
    freezer, scaler = hidden(optimizer), torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        scaler.scale(loss_of(model, step)).backward()
        if step == 2:
            parameter = next(param for param in model.parameters() if param.grad is not None)
            assert parameter.grad is not None
            parameter.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert freezer.steps == 3


def test_the_loss_of_a_closure_is_returned():
    model, optimizer = prepared()
    hidden(optimizer)
    loss_of(model, 0).backward()
    expected = loss_of(copy.deepcopy(model), 0).item()
    assert optimizer.step(lambda: loss_of(model, 0).item()) == expected
