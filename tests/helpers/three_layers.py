"""Runs of a network of three layers and a head, for tests of policies."""

import io

import torch
from torch import nn
from torch.optim import SGD

from smartfrz import Freezer

STEPS = 10
BODY = ["0", "2", "4"]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 6), nn.Tanh()),
        *(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
    )


def start(policy_for, seed=0):
    """A model, its optimizer and its freezer, with the policy ``policy_for(model)``."""
    model = net(seed)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    return model, optimizer, Freezer(model, optimizer, policy_for(model))


def train(model, optimizer, freezer, steps=range(STEPS), after_step=lambda model: None):
    for step in steps:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        model.train()
        model(inputs).square().mean().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
        after_step(model)
    return freezer


def reloaded(parts):
    """The states of the parts, saved to a file and loaded again."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_resume_equals_unbroken(policy_for, stop):
    unbroken, stopped, resumed = (start(policy_for) for _ in range(3))
    train(*unbroken)
    train(*stopped, range(stop))
    for part, state in zip(resumed, reloaded(stopped), strict=True):
        part.load_state_dict(state)
    train(*resumed, range(stop, STEPS))
    assert resumed[2].frozen == unbroken[2].frozen
    expected = unbroken[0].state_dict()
    assert all(torch.equal(value, expected[k]) for k, value in resumed[0].state_dict().items())
    return unbroken[2].frozen
