"""Tests of gradient accumulation, with several backward passes per step of the freezer."""

import torch
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
