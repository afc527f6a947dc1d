"""Learning-rate schedules of runs."""

import math

import pytest
import torch
from torch.optim import SGD

from experiments.errors import UserError
from experiments.runs.optimization import make_scheduler
from tests.helpers.digits import tiny_run

STEPS = 24
COSINE = [0.5 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]


def rates(steps: int = STEPS, **changes: object) -> list[float]:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(tiny_run(**changes), optimizer, steps, None)
    assert scheduler is not None
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", COSINE),
        ("constant", [1.0] * STEPS),
        ("step", [1.0] * 12 + [0.1] * 6 + [0.01] * 6),
        ("restarts", COSINE[::3] * 3),
    ],
)
def test_the_learning_rate_follows_the_schedule(schedule, expected):
    assert rates(schedule=schedule) == pytest.approx(expected)


def test_the_schedule_begins_after_the_warmup():
    found = rates(2 * STEPS, schedule="restarts", warmup=0.5)
    assert found[STEPS:] == pytest.approx(COSINE[::3] * 3)
    assert found[:STEPS] == pytest.approx([(step + 1) / (STEPS + 1) for step in range(STEPS)])


def test_an_unknown_schedule_is_named():
    with pytest.raises(UserError, match="'cosin': choose from cosine, constant, step, restarts"):
        tiny_run(schedule="cosin")


def test_a_method_that_sets_the_learning_rates_takes_no_schedule():
    with pytest.raises(UserError, match="'linear' sets the learning rates"):
        tiny_run("linear", schedule="step")
