"""Tests of gradient accumulation, with several backward passes per step of the optimizer."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD

from smartfrz import Freezer, find_layers
from tests.helpers.scripted import Scripted, freeze_by_hand


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )


def micro_batches(step: int) -> list[Tensor]:
    torch.manual_seed(step)
    return [torch.randn(4, 3) for _ in range(3)]


def with_accelerate(freezer_first: bool) -> tuple[nn.Module, Freezer, list[Tensor]]:
    """Trains with ``accumulate`` and calls the freezer after each micro-batch."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    model: Any = build()
    optimizer: Any = SGD(model.parameters(), lr=0.1, momentum=0.9)
    policy = Scripted({2: ["0"], 4: ["3"]})
    if freezer_first:
        freezer = Freezer(model, optimizer, policy)
    model, optimizer = accelerator.prepare(model, optimizer)
    if not freezer_first:
        freezer = Freezer(model, optimizer, policy)
    gradients = []
    for step in range(6):
        for inputs in micro_batches(step):
            with accelerator.accumulate(model):
                accelerator.backward(model(inputs).square().mean())
                freezer.step()
                gradients = gradients_of(model)
                optimizer.step()
                optimizer.zero_grad()
    return model, freezer, gradients


def gradients_of(model: nn.Module) -> list[Tensor]:
    return [param.grad.clone() for param in model.parameters() if param.grad is not None]


def once_per_window() -> tuple[nn.Module, Freezer, list[Tensor]]:
    """The same run in a plain loop, with one call of the freezer for each optimizer step."""
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    freezer = Freezer(model, optimizer, Scripted({2: ["0"], 4: ["3"]}))
    for step in range(6):
        for inputs in micro_batches(step):
            (model(inputs).square().mean() / 3).backward()
        freezer.step()
        gradients = gradients_of(model)
        optimizer.step()
        optimizer.zero_grad()
    return model, freezer, gradients


@pytest.mark.parametrize("freezer_first", [False, True])
def test_accelerate_accumulates_and_the_freezer_counts_optimizer_steps(freezer_first: bool):
    model, freezer, gradients = with_accelerate(freezer_first)
    expected_model, expected, expected_gradients = once_per_window()
    assert freezer.frozen == expected.frozen == {"0": 2, "3": 4}
    assert len(gradients) == 2  # those of the head
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    for name, value in expected_model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_calls_in_each_micro_batch_of_a_plain_loop_count_once_and_warn():
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    freezer = Freezer(model, optimizer, Scripted({1: ["0"]}))
    with pytest.warns(UserWarning, match="again before the optimizer's step"):
        for step in range(3):
            for inputs in micro_batches(step):
                model(inputs).square().mean().backward()
                freezer.step()
            optimizer.step()
            optimizer.zero_grad()
    assert freezer.frozen == {"0": 1}
    assert freezer.state_dict()["step"] == 3


@pytest.mark.parametrize("set_to_none", [False, True])
def test_one_call_for_each_step_does_not_warn(set_to_none: bool, recwarn):
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer)
    for step in range(3):
        model(micro_batches(step)[0]).square().mean().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad(set_to_none)
    assert freezer.state_dict()["step"] == 3
    assert not recwarn.list


def test_weights_are_those_of_a_loop_that_freezes_by_hand():
    model, stock = build(), build()
    optimizer, stock_optimizer = (
        SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1) for m in (model, stock)
    )
    layers = find_layers(model)
    freezer = Freezer(model, optimizer, Scripted({2: ["0"], 4: ["3"]}), layers)
    for step in range(10):
        model.train()
        stock.train()
        frozen = [layer for layer in layers if layer.name in freezer.frozen]
        freeze_by_hand(stock, frozen, like=model)
        for inputs in micro_batches(step):
            model(inputs).square().mean().backward()
            stock(inputs).square().mean().backward()
        newly = freezer.step()
        freeze_by_hand(stock, newly, like=model)
        for param in stock.parameters():
            param.grad = param.grad if param.requires_grad else None
        optimizer.step()
        stock_optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        stock_optimizer.zero_grad()
    assert freezer.frozen == {"0": 2, "3": 4}
    ours, theirs = model.state_dict(), stock.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
