"""Tests of SmartFRZ with a compute budget, with stub predictors."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from smartfrz import AttentionPredictor, BudgetPlan, Freezer, SmartFRZ

LAYERS = 8


class Constant(AttentionPredictor):
    """A predictor with the same probability for every layer."""

    def __init__(self, probability: float) -> None:
        super().__init__(8, 2, 8, 2, window=3, encoding="drift")
        self.probability = probability

    def decide(self, newest: Tensor, *rest: Tensor) -> Tensor:
        probability = torch.full((len(newest),), self.probability)
        return torch.stack([1 - probability, probability], dim=1).log()


def chain(is_pretrained: bool = False) -> nn.Sequential:
    """Linear layers of equal cost; the body's names are 0 to 7, the head's is 8."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(LAYERS + 1)))
    if is_pretrained:
        with torch.no_grad():
            for layer in model:
                unit = nn.functional.normalize(torch.randn(2, 16), dim=1)
                # A direction far larger than by chance.
                layer.weight.mul_(0.3).add_(0.9 * torch.outer(unit[0], unit[1]))
    return model


def start(
    budget: float | None,
    steps: int,
    probability: float = 0.0,
    interval: int = 5,
    is_pretrained: bool = False,
) -> Freezer:
    model = chain(is_pretrained)
    predictor = Constant(probability)
    policy = SmartFRZ(
        predictor,
        interval,
        min_records=2,
        budget=budget,
        total_steps=steps,
        guard=False,
    )
    return Freezer(model, SGD(model.parameters(), lr=0.01, momentum=0.9), policy)


def train(freezer: Freezer, steps: range) -> Freezer:
    for step in steps:
        inputs = torch.randn(2, 16, generator=torch.Generator().manual_seed(step))
        freezer.model(inputs).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()
    return freezer


@pytest.mark.parametrize("budget", [0.45, 0.58, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("interval", [2, 50])
@pytest.mark.parametrize("is_pretrained", [False, True])
def test_spends_the_budget_whatever_the_predictor_says(
    budget: float, probability: float, interval: int, is_pretrained: bool
) -> None:
    freezer = train(start(budget, 120, probability, interval, is_pretrained), range(120))
    assert freezer.compute_spent / 120 == pytest.approx(budget, abs=0.006)


def test_the_head_of_a_pretrained_network_trains_alone_at_first_and_its_front_never() -> None:
    def trained(budget: float, is_pretrained: bool) -> tuple[list[str], list[str], list[str]]:
        """What is frozen after step 0, at the end of the first phase, and in the second one."""
        freezer = start(budget, 100, is_pretrained=is_pretrained)
        frozen = []
        for steps in (range(1), range(1, 9), range(9, 12)):
            train(freezer, steps)
            frozen.append([*freezer.frozen])
        return tuple(frozen)

    body = [str(i) for i in range(LAYERS)]
    assert trained(0.75, False) == ([], [], [])
    assert trained(0.58, True) == (body, body, ["0", "1"])
    assert trained(0.75, True) == (body, body, ["0", "1"])
    assert trained(0.82, True) == (body, body, ["0"])
    assert trained(1.0, True) == ([], [], [])


def test_the_front_keeps_its_weights_and_the_others_train_from_the_second_phase_on() -> None:
    def weights(freezer: Freezer) -> list[Tensor]:
        return [layer.weight.detach().clone() for layer in freezer.model]

    freezer = start(0.58, 100, is_pretrained=True)
    first = weights(freezer)
    last = weights(train(freezer, range(10)))
    assert [i for i in range(LAYERS + 1) if not torch.equal(first[i], last[i])] == [LAYERS]
    last = weights(train(freezer, range(10, 11)))
    moved = [i for i in range(LAYERS + 1) if not torch.equal(first[i], last[i])]
    assert moved == [*range(2, LAYERS + 1)]


def test_with_the_least_budget_the_head_trains_alone() -> None:
    least = 10 / 27 + 17 / 2700  # step 0 computes all gradients
    freezer = train(start(least + 0.001, 100, is_pretrained=True), range(100))
    assert {step for step, *_ in freezer.events} == {0}
    assert freezer.compute_spent / 100 == pytest.approx(least, abs=1e-3)


def test_all_that_has_not_converged_is_released_from_front_to_back_at_an_even_pace() -> None:
    steps = train(start(0.6, 100), range(100)).frozen
    assert [*steps] == [str(i) for i in range(LAYERS)]
    gaps = {later - earlier for earlier, later in pairwise(steps.values())}
    assert gaps <= {5, 6, 7}
    assert steps["7"] - steps["0"] == pytest.approx(40, abs=2)


def test_the_plan_alone_does_what_smartfrz_does_with_a_predictor_that_freezes_nothing() -> None:
    model = chain(is_pretrained=True)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    alone = train(Freezer(model, optimizer, BudgetPlan(0.58, 100)), range(100))
    assert alone.events == train(start(0.58, 100, is_pretrained=True), range(100)).events
    assert {what for _, what, _ in alone.events} == {"freeze", "thaw"}
    assert alone.compute_spent / 100 == pytest.approx(0.58, abs=0.003)


def test_layers_that_a_user_thaws_are_planned_anew() -> None:
    freezer = train(start(0.58, 100), range(33))
    assert 2 < len(freezer.frozen) < LAYERS
    freezer.thaw()
    train(freezer, range(33, 34))
    assert len(freezer.frozen) < LAYERS
    assert train(freezer, range(34, 100)).compute_spent / 100 == pytest.approx(0.58, abs=0.006)


def test_what_converges_early_lets_the_others_train_longer() -> None:
    """But no more freezes than leaves no budget unspent."""
    late = train(start(0.8, 100), range(100)).frozen
    early = train(start(0.8, 100, probability=1.0), range(100)).frozen
    assert early["0"] == 5 < late["0"]
    assert max(early.values()) > max(late.values())
    assert len(early) < LAYERS or len(set(early.values())) > 1


@pytest.mark.parametrize("stop", [1, 5, 9, 10, 30, 65, 70, 90])
@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("is_pretrained", [False, True])
def test_a_resumed_run_equals_an_unbroken_one(
    stop: int, probability: float, is_pretrained: bool
) -> None:
    unbroken = train(start(0.7, 100, probability, is_pretrained=is_pretrained), range(100))
    stopped = train(start(0.7, 100, probability, is_pretrained=is_pretrained), range(stop))
    # The weights that a run resumes from look pretrained, even if it began from scratch.
    resumed = start(0.7, 100, probability, is_pretrained=True)
    resumed.model.load_state_dict(stopped.model.state_dict())
    resumed.optimizer.load_state_dict(stopped.optimizer.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    train(resumed, range(stop, 100))
    assert resumed.events == unbroken.events
    for mine, other in zip(resumed.model.parameters(), unbroken.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_run_that_is_extended_spends_the_budget_of_its_new_length() -> None:
    freezer = train(start(0.75, 100), range(50))
    freezer.policy.total_steps = 200
    assert train(freezer, range(50, 200)).compute_spent / 200 == pytest.approx(0.75, abs=0.006)


def test_a_budget_out_of_reach_is_an_error_that_names_the_least() -> None:
    with pytest.raises(ValueError, match=r"still spends 0.377 of full training's compute"):
        start(0.3, 100)
    assert train(start(0.377, 100), range(100)).compute_spent == pytest.approx(37.7, abs=0.1)


@pytest.mark.parametrize(("budget", "steps"), [(0.0, 10), (1.5, 10), (-1.0, 10), (0.7, 0)])
def test_a_budget_is_a_fraction_of_a_run(budget: float, steps: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        start(budget, steps)


def test_a_budget_needs_the_number_of_steps_and_a_freezer() -> None:
    with pytest.raises(ValueError, match="A budget requires total_steps"):
        SmartFRZ(Constant(0.0), 5, budget=0.7)
    policy = SmartFRZ(Constant(0.0), 5, budget=0.7, total_steps=10)
    with pytest.raises(ValueError, match="A budget or a probe needs a Freezer"):
        policy.layers_to_freeze(Freezer(chain(), SGD(chain().parameters(), 0.1)).layers, 0)


def test_without_a_budget_warns_in_the_middle_if_nothing_is_frozen() -> None:
    with pytest.warns(UserWarning, match="pass a budget"):
        train(start(None, 20), range(20))
    freezer = train(start(None, 20, probability=1.0), range(20))
    assert len(freezer.frozen) == LAYERS
