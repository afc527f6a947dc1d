"""Tests of the measurement of activations in the forward passes of a run."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smartfrz.memory import ActivationWatch, activation_bytes

WIDTH, BATCH = 8, 4
ROW = 4 * BATCH * WIDTH  # bytes of a layer's output


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))


def inputs() -> Tensor:
    return torch.randn(BATCH, WIDTH)


def test_what_a_pass_keeps():
    net, x = network(), inputs()
    watch = ActivationWatch(net)
    assert watch.bytes is None
    net(x)
    assert watch.bytes == 4 * ROW  # three that the next layers need, and the output
    known = [*net.parameters(), x]
    assert watch.bytes == activation_bytes(lambda: net(x), known)


def test_it_measures_again_when_asked_to():
    net = network()
    watch = ActivationWatch(net)
    net(inputs())
    net[:2].requires_grad_(False)
    net(inputs())
    assert watch.bytes == 4 * ROW
    watch.measure_again()
    net(inputs())
    assert watch.bytes == 3 * ROW  # the third layer's input, too
    net(inputs()[:2])
    assert watch.bytes == 3 * ROW


def test_only_passes_of_training_are_measured():
    net = network().eval()
    watch = ActivationWatch(net)
    net(inputs())
    with torch.no_grad():
        net.train()(inputs())
    assert watch.bytes is None
    net(inputs())
    assert watch.bytes is not None


def test_gradients_are_the_same():
    measured, plain = network(), network()
    ActivationWatch(measured)
    x = inputs()
    for net in (measured, plain):
        net(x).square().sum().backward()
    for param, other in zip(measured.parameters(), plain.parameters(), strict=True):
        assert torch.equal(param.grad, other.grad)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


def test_activation_checkpointing_counts_as_it_is():
    net = Checkpointed()
    watch = ActivationWatch(net)
    net(inputs()).sum().backward()
    assert watch.bytes == ROW  # the output


class Failing(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        super().forward(input)
        raise RuntimeError("a bug of the model")


def test_a_pass_that_fails_ends_the_measurement():
    net = Failing(WIDTH, WIDTH)
    watch = ActivationWatch(net)
    with pytest.raises(RuntimeError, match="a bug of the model"):
        net(inputs())
    watch.remove()
    before = watch.bytes
    torch.zeros(10)
    assert watch.bytes == before
    assert not net._forward_hooks and not net._forward_pre_hooks


def test_copies_of_the_model_are_not_measured():
    """Such as replicas of DataParallel, which run in threads of their own."""
    net = network()
    watch = ActivationWatch(net)
    replica = net._replicate_for_data_parallel()
    replica(inputs())
    assert watch.bytes is None
    copy.deepcopy(net)(inputs())
    assert watch.bytes is None


@pytest.mark.slow
def test_compiled_code_is_not_measured():
    torch._dynamo.reset()
    net = network()
    watch = ActivationWatch(net)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(inputs() * 0), net.eval()(inputs() * 0))
    assert watch.bytes is None
