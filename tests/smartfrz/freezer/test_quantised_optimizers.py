"""Tests of optimizers that quantise their state, of bitsandbytes, and of memory held."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from smartfrz import Freezer
from smartfrz.memory import gradient_bytes, optimizer_state_bytes
from tests.helpers.scripted import Scripted

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bitsandbytes.optim import AdamW8bit, AdEMAMix8bit, Lion8bit, PagedAdamW8bit

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")

OPTIMIZERS = [AdamW8bit, PagedAdamW8bit, Lion8bit, AdEMAMix8bit]
WIDTH = 128  # smaller weights are not quantised


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = [part for _ in range(3) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*body, nn.Linear(WIDTH, 2))


def train(freezer: Freezer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        freezer.model(torch.randn(8, WIDTH)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()


def started(make: Callable[..., Optimizer], policy: Any) -> Freezer:
    model = network()
    return Freezer(model, make(model.parameters(), lr=0.01), policy)


def weights(freezer: Freezer, *layers: str) -> list[Tensor]:
    named = freezer.model.named_parameters()
    return [p.detach().clone() for n, p in named if n.partition(".")[0] in layers]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_frozen_weights_stay_and_their_state_is_freed(make):
    freezer = started(make, Scripted({3: ["0"], 5: ["2"]}))
    train(freezer, range(3))
    whole = optimizer_state_bytes(freezer.optimizer)
    before = weights(freezer, "0")
    assert 0 < whole < 2 * gradient_bytes(freezer.model), "the state is quantised"
    train(freezer, range(3, 5))
    one_less = optimizer_state_bytes(freezer.optimizer)
    train(freezer, range(5, 8))
    two_less = optimizer_state_bytes(freezer.optimizer)
    assert whole - one_less == one_less - two_less > whole / 4
    assert all(map(torch.equal, before, weights(freezer, "0")))
    freezer.thaw()
    train(freezer, range(8, 9))
    assert optimizer_state_bytes(freezer.optimizer) == whole
    assert not any(map(torch.equal, before, weights(freezer, "0")))


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_resumed_to_the_bit(make):
    first = started(make, Scripted({3: ["0"]}))
    train(first, range(6))
    buffer = io.BytesIO()
    states = (first.model.state_dict(), first.optimizer.state_dict(), first.state_dict())
    torch.save(states, buffer)
    buffer.seek(0)
    model, optimizer, freezer = torch.load(buffer, weights_only=True)
    again = started(make, Scripted({}))
    again.model.load_state_dict(model)
    again.load_state_dict(freezer)
    again.optimizer.load_state_dict(optimizer)
    for run in (first, again):
        train(run, range(6, 9))
    everything = ("0", "2", "4", "6")
    assert all(map(torch.equal, weights(first, *everything), weights(again, *everything)))


def test_memory_of_an_ordinary_optimizer():
    freezer = started(torch.optim.AdamW, Scripted({1: ["0"]}))
    layer, head = 4 * (WIDTH * WIDTH + WIDTH), 4 * 2 * (WIDTH + 1)
    assert optimizer_state_bytes(freezer.optimizer) == 0
    for step, trains in ((0, 3), (1, 2)):
        train(freezer, range(step, step + 1))
        gradients = trains * layer + head
        tensors = 2 * (trains + 1)
        assert gradient_bytes(freezer.model) == gradients
        steps = 4 * tensors  # a number for each tensor: how often it was updated
        assert optimizer_state_bytes([freezer.optimizer]) == 2 * gradients + steps
