"""Tests of the policies that freeze the body gently: annealed, or at the mean of its weights."""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from baselines import AnnealedBody, AveragedBody
from baselines.freezeout import param_groups
from smartfrz import Freezer, Gathered, Policy, PrefixThenBody, find_layers

STEPS = 40
PLAN = {"total_steps": STEPS, "prefix": 0.8, "compute": 0.6}

GENTLE: dict[str, Callable[..., PrefixThenBody]] = {
    "annealed": AnnealedBody,
    "averaged": AveragedBody,
}
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda params: AdamW(params, lr=0.01, weight_decay=0.1),
}


def network(norm: type[nn.Module]) -> nn.Sequential:
    """Five layers with norms, and a head."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 8), norm(8), nn.Tanh()) for _ in range(5)]
    return nn.Sequential(*blocks, nn.Linear(8, 3))


class Training:
    """A run with a learning-rate schedule, and one optimizer for each part of the parameters."""

    def __init__(
        self,
        policy: Policy,
        optimizer: str = "SGD",
        norm: type[nn.Module] = nn.LayerNorm,
        divided: Callable[[nn.Module], list[Any]] = lambda model: [model.parameters()],
    ) -> None:
        self.model = network(norm)
        self.optimizers = [OPTIMIZERS[optimizer](part) for part in divided(self.model)]
        self.schedulers = [CosineAnnealingLR(each, STEPS) for each in self.optimizers]
        inputs = torch.zeros(2, 8)
        self.freezer = Freezer(self.model, self.optimizers, policy, example_inputs=inputs)

    def steps(self, steps: Iterable[int] = range(STEPS)) -> Iterator[int]:
        """Yields each step before it is taken, when the gradients are computed."""
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(16, 8, generator=generator)
            targets = torch.randint(3, (16,), generator=generator)
            nn.functional.cross_entropy(self.model(inputs), targets).backward()
            yield step
            self.freezer.step()
            for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()

    def weights(self) -> dict[str, list[torch.Tensor]]:
        """A copy of the parameters and the norms' statistics of each layer."""
        return {
            layer.name: [
                tensor.detach().clone()
                for tensor in (*layer.params, *(b for n in layer.norms for b in n.buffers()))
            ]
            for layer in self.freezer.layers
        }

    def parts(self) -> list[Any]:
        return [self.model, *self.optimizers, *self.schedulers, self.freezer]


def trained(policy: Policy, steps: Iterable[int] = range(STEPS), **options: Any) -> Training:
    run = Training(policy, **options)
    for _ in run.steps(steps):
        pass
    return run


def assert_equal_weights(one: Training, other: Training) -> None:
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", GENTLE)
def test_the_schedule_and_the_compute_are_those_of_the_control(kind: str) -> None:
    run, control = trained(GENTLE[kind](**PLAN)), trained(PrefixThenBody(**PLAN))
    assert run.freezer.events == control.freezer.events
    assert len(run.freezer.frozen) == 5 and {*run.freezer.frozen.values()} > {0}
    assert run.freezer.compute_spent / STEPS == pytest.approx(0.6, rel=0.01)
    assert not torch.equal(run.model[3][0].weight, control.model[3][0].weight)


@pytest.mark.parametrize("kind", GENTLE)
def test_over_no_steps_it_is_the_control(kind: str) -> None:
    run = trained(GENTLE[kind](*PLAN.values(), 0.0))
    assert_equal_weights(run, trained(PrefixThenBody(**PLAN)))


def factor(step: int, end: int, anneal: float) -> float:
    start = (1 - anneal) * end
    if step < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - start) / (end - start)))


@pytest.mark.parametrize("anneal", [0.5, 1.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_updates_are_those_of_learning_rates_annealed_by_hand(
    optimizer: str, anneal: float
) -> None:
    run = trained(AnnealedBody(**PLAN, anneal=anneal), optimizer=optimizer)

    def by_layer(model: nn.Module) -> list[Any]:
        return [param_groups(model, find_layers(model, torch.zeros(2, 8)))]

    by_hand = Training(PrefixThenBody(**PLAN), optimizer, divided=by_layer)
    ends = [run.freezer.frozen.get(layer.name) for layer in by_hand.freezer.layers]
    assert ends[0] == 0 and ends[-1] is None and sum(map(bool, ends)) > 2
    groups = by_hand.optimizers[0].param_groups
    rates = [group["lr"] for group in groups]

    def restore(*_: object) -> None:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    by_hand.optimizers[0].register_step_post_hook(restore)
    for step in by_hand.steps():
        rates[:] = [group["lr"] for group in groups]
        for group, end in zip(groups, ends, strict=True):
            if end:
                group["lr"] *= factor(min(step, end), end, anneal)
    assert len({group["lr"] for group in run.optimizers[0].param_groups + groups}) == 1
    torch.testing.assert_close(
        run.model.state_dict(), by_hand.model.state_dict(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_updates_of_the_body_come_to_rest_and_those_of_the_head_do_not(optimizer: str) -> None:
    run = Training(AnnealedBody(**PLAN, anneal=0.5), optimizer)
    lengths: dict[str, list[float]] = {layer.name: [] for layer in run.freezer.layers}
    before = run.weights()
    for _ in run.steps():
        now = run.weights()
        for name, moved in lengths.items():
            moved.append(float((now[name][0] - before[name][0]).norm()))
        before = now
    *body, head = (layer.name for layer in run.freezer.layers)
    for name in body:
        end = run.freezer.frozen[name]
        assert not any(lengths[name][end + 1 :])
        if end:
            assert 0 < lengths[name][end] < 0.1 * min(lengths[name][1 : end // 2])
            assert lengths[name][end - 1] > lengths[name][end]
    assert lengths[head][min(filter(None, run.freezer.frozen.values()))] > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_freezing_the_rates_are_the_same_and_all_layers_train(optimizer: str) -> None:
    frozen = trained(AnnealedBody(**PLAN), optimizer=optimizer)
    run = Training(AnnealedBody(**PLAN, freeze=False), optimizer)
    for _ in run.steps():
        assert all(param.grad is not None for param in run.model.parameters())
    assert len(frozen.freezer.frozen) == 5
    assert run.freezer.events == [] and run.freezer.compute_spent == STEPS
    assert not any(run.freezer.policy.is_due(step) for step in range(STEPS))
    assert run.freezer.policy.layers_to_freeze(run.freezer.layers, STEPS - 1) == []
    # Layer norms: there are no running statistics that could go on.
    assert_equal_weights(run, frozen)


@pytest.mark.parametrize("average", [0.3, 1.0])
def test_the_body_is_frozen_at_the_mean_of_its_weights_and_statistics(average: float) -> None:
    policy = AveragedBody(**PLAN, average=average)
    run = Training(policy, norm=nn.BatchNorm1d)
    seen = []
    for _ in run.steps():
        seen.append(run.weights())
    last, first_of_body = run.weights(), max(run.freezer.frozen.values())
    body = {name: end for name, end in run.freezer.frozen.items() if end}
    assert len(body) > 2
    for name, end in body.items():
        recent = [each[name] for each in seen[math.ceil((1 - average) * end) : end + 1]]
        assert len(recent) == (end + 1 if average == 1 else math.floor(0.3 * end) + 1)
        means = [torch.stack(values).double().mean(0) for values in zip(*recent, strict=True)]
        *expected, batches = means
        *found, num_batches = last[name]
        for value, mean in zip(found, expected, strict=True):
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
        assert num_batches == end + 1 != batches  # a count, which has no mean
        assert not torch.equal(last[name][0], recent[-1][0])
    control = trained(PrefixThenBody(**PLAN), range(first_of_body), norm=nn.BatchNorm1d)
    front = next(name for name, end in run.freezer.frozen.items() if not end)
    assert all(map(torch.equal, last[front], control.weights()[front]))


@pytest.mark.parametrize("is_gathered", [False, True], ids=["alone", "gathered"])
@pytest.mark.parametrize("kind", GENTLE)
def test_a_resumed_run_ends_with_the_same_weights(kind: str, is_gathered: bool) -> None:
    def start() -> Policy:
        policy = GENTLE[kind](**PLAN)
        return Gathered(policy, 0.4) if is_gathered else policy

    whole = trained(start(), norm=nn.BatchNorm1d)
    end = max(whole.freezer.frozen.values())
    for stop in (1, end - 3, end + 2):
        first = trained(start(), range(stop), norm=nn.BatchNorm1d)
        file = io.BytesIO()
        torch.save([part.state_dict() for part in first.parts()], file)
        file.seek(0)
        second = Training(start(), norm=nn.BatchNorm1d)
        states = torch.load(file, weights_only=True)
        for part, state in zip(second.parts(), states, strict=True):
            part.load_state_dict(state)
        for _ in second.steps(range(stop, STEPS)):
            pass
        assert second.freezer.events == whole.freezer.events
        assert_equal_weights(second, whole)


def test_a_saved_state_is_not_changed_by_the_steps_that_follow() -> None:
    run = Training(AveragedBody(**PLAN, average=1.0))
    for step in run.steps():
        if step == 3:
            state = run.freezer.state_dict()["policy"]["means"]
            kept = {
                name: (n, [mean.clone() for mean in means]) for name, (n, means) in state.items()
            }
    assert state.keys() == kept.keys() and state
    for name, (count, means) in kept.items():
        assert state[name][0] == count == 3
        assert all(map(torch.equal, state[name][1], means))


@pytest.mark.parametrize("kind", GENTLE)
def test_a_run_that_is_extended_spends_the_compute_and_ends_gently(kind: str) -> None:
    first = trained(GENTLE[kind](**PLAN), range(17))  # within the last part of the old plan
    second = Training(GENTLE[kind](**PLAN | {"total_steps": 60}))
    for part, other in zip(second.parts(), first.parts(), strict=True):
        part.load_state_dict(other.state_dict())
    seen = {}
    for step in second.steps(range(17, 60)):
        seen[step] = second.weights()
    assert second.freezer.compute_spent / 60 == pytest.approx(0.6, rel=0.01)
    name, end = max(second.freezer.frozen.items(), key=lambda item: item[1])
    last = second.weights()[name][0]
    if kind == "annealed":
        assert (last - seen[end - 1][name][0]).norm() < 0.1 * (
            seen[19][name][0] - seen[18][name][0]
        ).norm()
    else:
        recent = [seen[step][name][0] for step in range(math.ceil(0.7 * end), end + 1)]
        torch.testing.assert_close(last, torch.stack(recent).mean(0))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_of_several_optimizers_is_annealed(optimizer: str) -> None:
    whole = trained(AnnealedBody(**PLAN), optimizer=optimizer)
    run = trained(
        AnnealedBody(**PLAN),
        optimizer=optimizer,
        divided=lambda model: [model[0::2].parameters(), model[1::2].parameters()],
    )
    assert_equal_weights(run, whole)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AnnealedBody(10, anneal=1.5), r"anneal=1\.5 must be between 0 and 1"),
        (lambda: AveragedBody(10, average=-0.1), r"average=-0\.1 must be between 0 and 1"),
        (lambda: AnnealedBody(10, prefix=2), "prefix=2"),
        (lambda: AveragedBody(0), "total_steps=0"),
    ],
)
def test_arguments_out_of_range_are_errors(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
