"""Tests of the guard against freezing too early, with gradients that are set by hand."""

import pytest
import torch
from torch import Tensor, nn

from smartfrz import Layer, find_layers
from smartfrz.policies.guard import Guard

INTERVAL = 20


def build() -> tuple[nn.Module, list[Layer]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    return model, find_layers(model)


def set_gradients(model: nn.Module, step: int, common: float, norm: float = 1.0) -> None:
    """Random gradients with a common direction."""
    generator = torch.Generator().manual_seed(step)
    for index, param in enumerate(model.parameters()):
        direction = torch.randn(param.shape, generator=torch.Generator().manual_seed(index))
        noise = torch.randn(param.shape, generator=generator)
        param.grad = norm * (common * direction + noise)


def permitted(phases: list[float], guard: Guard, start: int = 0, norm: float = 1.0) -> list[bool]:
    """Whether freezing is permitted after each phase of three records."""
    model, layers = build()
    found, step = [], start
    for common in phases:
        for _ in range(3 * INTERVAL):
            set_gradients(model, step, common, norm)
            guard.observe(layers, step)
            step += 1
        found.append(guard.permits_freezing)
    return found


def test_freezing_is_permitted_after_a_peak_of_the_agreement() -> None:
    plateau, learning = 0.0, 2.0
    guard = Guard(INTERVAL)
    phases = [plateau, plateau, learning, plateau, plateau]
    assert permitted(phases, guard) == [False, False, False, False, True]


@pytest.mark.parametrize("common", [0.0, 2.0])
def test_without_a_peak_it_never_is(common: float) -> None:
    assert permitted([common] * 5, Guard(INTERVAL)) == [False] * 5


def test_gradients_that_overflow_are_left_out() -> None:
    guard = Guard(INTERVAL)
    assert permitted([2.0], guard) == [False]
    model, layers = build()
    for step in range(3 * INTERVAL, 6 * INTERVAL):
        set_gradients(model, step, 0.0, norm=float("inf"))
        guard.observe(layers, step)
    assert not guard.permits_freezing
    assert permitted([0.0, 0.0], guard, start=6 * INTERVAL)[-1]


def test_layers_are_thawed_once_if_the_gradients_of_the_heads_grow() -> None:
    guard, (_, layers) = Guard(INTERVAL), build()
    permitted([2.0, 0.0, 0.0], guard)
    assert guard.permits_freezing
    guard.note_frozen(layers[:1])
    permitted([0.0], guard, start=9 * INTERVAL, norm=2.0)
    assert guard.wrongly_frozen(layers[:2]) == []
    permitted([0.0], guard, start=12 * INTERVAL, norm=10.0)
    assert guard.wrongly_frozen(layers[:2]) == layers[:1]
    assert not guard.permits_freezing  # another peak has to follow
    guard.note_frozen(layers[:1])
    permitted([0.0], guard, start=15 * INTERVAL, norm=100.0)
    assert guard.wrongly_frozen(layers[:2]) == []


@pytest.mark.parametrize("stop", [37, 75, 130, 200])
def test_a_resumed_guard_decides_as_an_unbroken_one(stop: int) -> None:
    def common(step: int) -> float:
        return 2.0 if 60 <= step < 120 else 0.0

    def run(guard: Guard, steps: range) -> list[tuple[bool, list[str]]]:
        model, layers = build()
        found = []
        for step in steps:
            set_gradients(model, step, common(step), norm=9.0 if step > 220 else 1.0)
            guard.observe(layers, step)
            if step == 180:
                guard.note_frozen(layers[:1])
            thawed = [layer.name for layer in guard.wrongly_frozen(layers[:1])]
            found.append((guard.permits_freezing, thawed))
        return found

    unbroken = run(Guard(INTERVAL), range(260))
    assert {permits for permits, _ in unbroken} == {False, True}
    assert any(thawed for _, thawed in unbroken)
    stopped, resumed = Guard(INTERVAL), Guard(INTERVAL)
    run(stopped, range(stop))
    resumed.load_state_dict(stopped.state_dict())
    assert run(resumed, range(stop, 260)) == unbroken[stop:]


def test_sparse_gradients_are_no_obstacle() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4, sparse=True)
            self.head = nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids).mean(dim=1))

    model, ids = Words(), torch.randint(0, 10, (4, 3))
    guard, layers = Guard(INTERVAL), find_layers(model, ids)
    for step in range(2 * INTERVAL):
        model.zero_grad()
        model(ids).square().sum().backward()
        guard.observe(layers, step)
    assert not guard.permits_freezing
