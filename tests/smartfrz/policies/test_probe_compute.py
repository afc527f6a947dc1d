"""What the forward passes of a probe cost, and how often layers are recorded, with a budget."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from baselines import SVCCA
from smartfrz import (
    AttentionPredictor,
    ComputeBudget,
    Freezer,
    Gathered,
    Layer,
    SimilarityGuided,
    SmartFRZ,
)
from smartfrz.cost import compute_spent
from smartfrz.policies import PeriodicComparison, Policy
from smartfrz.predictor import WIDTH

EPOCH = 50
STEPS = 2 * EPOCH
BATCH, PROBE = 8, 16


def predictor_of(encoding: str) -> AttentionPredictor:
    torch.manual_seed(0)
    predictor = AttentionPredictor(
        WIDTH if encoding == "outputs" else 64, 8, 8, 4, window=3, encoding=encoding, threshold=0.3
    )
    for param in predictor.parameters():
        nn.init.normal_(param, std=0.3)
    return predictor


def start(
    encoding: str, interval: int, budget: float | None = None, part: float | None = None
) -> tuple[Freezer, list[int]]:
    """A freezer of a small convolutional network, and the sizes of the batches of its probe."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if not module.training:
            seen.append(len(output))

    policy = SmartFRZ(
        predictor_of(encoding),
        interval,
        min_records=5,
        budget=budget,
        total_steps=None if budget is None else STEPS,
        guard=False,
        probe=torch.randn(PROBE, 3, 10, 10).split(PROBE // 2) if encoding == "outputs" else (),
        batch_size=BATCH,
    )
    freezer = Freezer(
        model,
        SGD(model.parameters(), 0.05),
        policy if part is None else Gathered(policy, part),
        example_inputs=torch.zeros(1, 3, 10, 10),
    )
    model.register_forward_hook(note)
    return freezer, seen


def step(freezer: Freezer) -> None:
    generator = torch.Generator().manual_seed(freezer.steps)
    labels = torch.randint(4, (BATCH,), generator=generator)
    inputs = torch.randn(BATCH, 3, 10, 10, generator=generator)
    freezer.model.train()
    nn.functional.cross_entropy(freezer.model(inputs), labels).backward()
    freezer.step()
    freezer.optimizer.step()
    freezer.optimizer.zero_grad()


def train(freezer: Freezer, steps: int = STEPS) -> Freezer:
    while freezer.steps < steps:
        step(freezer)
    return freezer


@pytest.mark.parametrize("part", [None, 0.5])
def test_every_pass_of_the_probe_counts_as_a_third_of_training_on_it(part: float | None) -> None:
    freezer, seen = start("outputs", 3, part=part)
    train(freezer, 20)
    assert len(seen) >= 10  # two batches at steps 0, 3, 6, ...
    steps = compute_spent(freezer.events, 20, freezer.costs)
    assert freezer.compute_spent == pytest.approx(steps + sum(seen) / BATCH / 3)


def test_without_a_probe_only_steps_count() -> None:
    freezer, seen = start("drift", 3)
    train(freezer, 20)
    assert not seen
    assert freezer.compute_spent == compute_spent(freezer.events, 20, freezer.costs)


@pytest.mark.parametrize("budget", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("interval", [1, 5, 25])
def test_a_budget_pays_for_the_probe(budget: float, interval: int) -> None:
    freezer, seen = start("outputs", interval, budget)
    train(freezer)
    spent = compute_spent(freezer.events, STEPS, freezer.costs) + sum(seen) / BATCH / 3
    assert spent / STEPS == pytest.approx(budget, rel=0.02)
    assert spent == pytest.approx(freezer.compute_spent)


def test_with_a_budget_a_run_has_few_records_however_short_the_interval() -> None:
    """At every step they would cost more than the budget."""
    freezer, seen = start("outputs", 1, 0.99)
    train(freezer)
    assert 30 < len(seen) / 2 <= 50


def test_the_probe_makes_the_front_no_longer() -> None:
    fronts = []
    for encoding in ("drift", "outputs"):
        freezer, _ = start(encoding, 1, 0.8)
        with torch.no_grad():  # as after pretraining: a direction larger than by chance
            for param in freezer.model.parameters():
                param.add_(0.3)
        freezer = Freezer(
            freezer.model,
            freezer.optimizer,
            freezer.policy,
            example_inputs=torch.zeros(1, 3, 10, 10),
        )
        train(freezer, STEPS // 10 + 1)
        fronts.append([*freezer.frozen])
    assert fronts == [[], []]  # a step with the first layer frozen costs less


@pytest.mark.parametrize("encoding", ["drift", "outputs"])
def test_a_budget_is_spent_whatever_the_number_of_records(encoding: str) -> None:
    """2 and 50 records per epoch."""
    rare, frequent = (
        train(start(encoding, EPOCH // records, 0.6)[0]).compute_spent for records in (2, 50)
    )
    assert rare == pytest.approx(frequent, rel=0.02)


def test_a_budget_that_does_not_pay_for_the_probe_is_an_error() -> None:
    least = (1 + (STEPS - 1) * start("drift", 1)[0].costs(["0", "3", "5"])) / STEPS
    assert start("drift", 1, least + 0.001)
    with pytest.raises(ValueError, match="cannot be reached"):
        start("outputs", 1, least + 0.001)


def test_a_resumed_run_has_spent_the_same() -> None:
    unbroken = train(start("outputs", 2, 0.6)[0], 60)
    stopped, resumed = train(start("outputs", 2, 0.6)[0], 35), start("outputs", 2, 0.6)[0]
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (stopped, stopped.model, stopped.optimizer)], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for each, state in zip((resumed, resumed.model, resumed.optimizer), saved, strict=True):
        each.load_state_dict(state)
    train(resumed, 60)
    assert resumed.compute_spent == unbroken.compute_spent
    assert resumed.events == unbroken.events


def test_the_budget_of_a_learning_rate_contains_the_probe() -> None:
    freezer, _ = start("outputs", 2)
    budget = ComputeBudget(freezer, steps=50)
    for _ in range(20):
        step(freezer)
        budget.step()
    assert budget.spent == pytest.approx(freezer.compute_spent / 50)
    state, (again, _) = budget.state_dict(), start("outputs", 2)
    resumed = ComputeBudget(again, steps=50)
    again.load_state_dict(freezer.state_dict())
    resumed.load_state_dict(state)
    for each, of in ((freezer, budget), (again, resumed)):
        each.model.train()
        step(each)
        of.step()
    assert resumed.spent == budget.spent == pytest.approx(freezer.compute_spent / 50)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))


class Moves(PeriodicComparison[float]):
    """Looks at its probe, and freezes nothing."""

    def measured(self, layers: Sequence[Layer]) -> dict[str, float]:
        with torch.no_grad():
            self.model(*self.probe)
        return {}

    def stable(self, layers: Sequence[Layer], last: Any, now: Any) -> list[Layer]:
        return []

    def attach(self, freezer: Freezer) -> None:
        super().attach(freezer)
        self.model = freezer.model


COMPARISONS: dict[str, tuple[Callable[[nn.Module, list[Tensor]], Policy], int]] = {
    "similarity": (lambda model, probe: SimilarityGuided(model, small_net(), probe, 3, BATCH), 1),
    "svcca": (lambda model, probe: SVCCA(model, probe, 3, BATCH), 0),
    "own": (lambda model, probe: Moves(3, probe, BATCH), 0),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_policy_with_a_probe_counts_its_passes(name: str) -> None:
    """The passes of the reference of similarity-guided freezing, too; and after a resumption."""
    make, of_reference = COMPARISONS[name]

    def started() -> Freezer:
        model = small_net()
        policy = make(model, [torch.randn(PROBE, 6)])
        return Freezer(model, SGD(model.parameters(), 0.05), policy)

    def steps(freezer: Freezer, until: int) -> Freezer:
        while freezer.steps < until:
            inputs = torch.randn(BATCH, 6)
            nn.functional.cross_entropy(freezer.model(inputs), inputs[:, :4].argmax(1)).backward()
            freezer.step()
            freezer.optimizer.step()
            freezer.optimizer.zero_grad()
        return freezer

    freezer = steps(started(), 7)  # looks at steps 2 and 5
    extra = freezer.compute_spent - compute_spent(freezer.events, 7, freezer.costs)
    assert extra == pytest.approx((2 + of_reference) * PROBE / BATCH * freezer.costs.forward)
    resumed = started()
    resumed.load_state_dict(freezer.state_dict())
    assert steps(resumed, 7).compute_spent == freezer.compute_spent


def test_a_probe_requires_a_batch_size() -> None:
    with pytest.raises(ValueError, match="A probe requires batch_size"):
        Moves(3, [torch.randn(PROBE, 6)])
    Moves(3)
