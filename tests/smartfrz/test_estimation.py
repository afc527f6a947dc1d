"""Tests of the estimate of what freezing would save."""

import copy

import pytest
import torch
from torch import Tensor, nn

import smartfrz
from smartfrz import estimation, find_layers
from smartfrz.cost import StepCosts
from smartfrz.estimation import FrozenStep
from tests.helpers.tied import Tied


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )


IMAGES = torch.randn(4, 3, 8, 8)


def test_compute_memory_and_budgets():
    net = network()
    found = smartfrz.estimate(net, IMAGES, budgets=(0.05, 0.6, 1.0))
    costs = StepCosts(net, find_layers(net, IMAGES), IMAGES)
    nothing, half, most = found.steps
    assert [each.compute for each in found.steps] == [1.0, costs(["0"]), costs(["0", "4"])]
    assert nothing.time == 1.0
    assert nothing.gradients == 4 * sum(param.numel() for param in net.parameters())
    assert most.gradients == 4 * sum(param.numel() for param in net[-1].parameters())
    assert nothing.activations > half.activations > most.activations > 0
    assert found.times[0.05] is None
    assert found.times[1.0] == 1.0
    assert found.times[0.6] is not None and found.times[0.6] > 0
    lines = str(found).splitlines()
    assert lines[1].split()[:3] == ["nothing", "1.00", "1.00"]
    assert "  0.05   out of reach" in lines and "  1.00   1.00" in lines


def test_the_model_stays_as_it_was():
    net = network().eval()
    net[0].weight.requires_grad_(False)
    net[4].weight.grad = torch.ones_like(net[4].weight)
    before, numbers = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    smartfrz.estimate(net, IMAGES)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module.training for module in net.modules())
    assert not net[0].weight.requires_grad and net[0].bias.requires_grad
    gradients = {name: param.grad for name, param in net.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is not None] == ["4.weight"]
    assert torch.equal(torch.get_rng_state(), numbers)
    net.train()
    assert all(module.training for module in net.modules())


def test_a_run_takes_the_time_of_its_steps(monkeypatch):
    """If steps take the time of their compute, a run takes the time of its budget."""
    net = network()

    def ideal(freezer, sets, inputs):
        return {name: freezer.costs([layer.name for layer in part]) for name, part in sets.items()}

    monkeypatch.setattr(estimation, "_measure_times", ideal)
    found = smartfrz.estimate(net, IMAGES, budgets=(0.5, 0.7, 0.9))
    assert [*found.times.values()] == pytest.approx([0.5, 0.7, 0.9], abs=0.01)
    assert found.remarks == []


@pytest.mark.parametrize(("compute", "expected"), [(1.0, 1.0), (0.8, 0.9), (0.5, 0.7), (0.3, 0.6)])
def test_between_measured_steps_time_is_linear(compute, expected):
    measured = [(1.0, 1.0), (0.6, 0.8), (0.4, 0.6)]
    steps = [FrozenStep("", *each, 0, 0) for each in measured]
    assert estimation._interpolated(compute, steps) == pytest.approx(expected)


def test_reasons_for_which_little_is_saved(monkeypatch):
    monkeypatch.setattr(
        estimation, "_measure_times", lambda freezer, sets, inputs: dict.fromkeys(sets, 1.0)
    )
    found = smartfrz.estimate(network(), IMAGES).remarks
    assert len(found) == 1 and "waits for something other than compute" in found[0]
    images = IMAGES.clone().requires_grad_()
    found = smartfrz.estimate(network(), images).remarks
    assert "The inputs require a gradient" in found[0]
    assert images.grad is None
    found = smartfrz.estimate(Tied(), torch.ones(2, 5, dtype=torch.long)).remarks
    assert "embedding, is a head and always trains" in found[0]
    found = smartfrz.estimate(nn.Linear(3, 2), torch.randn(4, 3)).remarks
    assert found == ["There is no layer to freeze but heads."]


def test_outputs_without_a_gradient():
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).argmax(dim=1)

    with pytest.raises(ValueError, match="no tensor to compute a gradient from"):
        smartfrz.estimate(Labels(), torch.randn(4, 3))
