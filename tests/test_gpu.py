"""On a GPU: runs of each kind, what the backward pass keeps, CUDA graphs, what SmartFRZ costs."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from experiments.options import SmartFRZOptions
from experiments.runs.setup import prepare
from experiments.runs.training_loop import Curves, train, train_step
from experiments.studies.overhead import decision_flops, training_times
from smartfrz import (
    CapturedBackward,
    FeatureCache,
    Freezer,
    find_layers,
    fold_batch_norms,
    save_memory,
)
from smartfrz.memory.bits import Bits
from smartfrz.predictor.attention import AttentionPredictor
from tests.helpers.counted import frozen
from tests.helpers.digits import ignore, save_random_predictor, tiny_run
from tests.helpers.scripted import Scripted

pytestmark = pytest.mark.gpu

# Options with which each method freezes layers within 30 steps.
METHODS: dict[str, dict] = {
    "full": {},
    "linear": {"match": ""},
    "autofreeze": {},
    "smartfrz": {"threshold": 0.0},
    "displacement": {"threshold": 10.0},
    "random": {"match": "", "span": 0.5},
    "simfreeze": {"tolerance": 1.0},
    "svcca": {"tolerance": 1.0},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_a_stopped_run_goes_on(method, amp, tmp_path):
    options = save_random_predictor(tmp_path / "predictor") if method == "smartfrz" else {}
    options |= METHODS[method]
    config = tiny_run(method, amp=amp, options=options or None)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    epochs = iter([ignore, stop])
    with pytest.raises(KeyboardInterrupt):
        train(config, ignore, lambda run, curves: next(epochs)())
    run, curves = train(config, ignore, ignore)
    assert all(param.is_cuda for param in run.model.parameters())
    assert curves.step == 30 and len(curves.accuracy) == 3
    assert curves.peak_memory_bytes > 0
    assert bool(run.freezer.frozen) == (method != "full")


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_steps_without_a_decision_do_not_wait_for_the_gpu(amp):
    """fp16 does, because GradScaler reads whether gradients have overflowed."""
    run = prepare(tiny_run("linear", amp=amp, options={"match": ""}))
    run.model.train()
    curves = Curves()
    batches = run.batches.epoch(0, 0)
    for _ in range(6):
        train_step(run, curves, next(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(run, curves, next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.bool])
def test_bits_are_those_of_the_cpu(dtype):
    for size in (1, 8, 1001):
        tensor = torch.randn(3, size)
        tensor = tensor > 0 if dtype == torch.bool else tensor.to(dtype)
        kept = Bits(tensor.cuda()).unpacked()
        assert kept.dtype == dtype and torch.equal(kept.cpu(), Bits(tensor).unpacked())


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v2", "squeezenet1_1"])
@pytest.mark.parametrize("amp", [False, True])
def test_gradients_are_those_of_pytorch(name, amp):
    model = torchvision.models.get_model(name, num_classes=4).cuda()
    images = torch.randn(2, 3, 64, 64, device="cuda")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for param in list(model.parameters())[3:-6:2]:
        param.requires_grad_(False)
    for norm in norms:
        norm.train(norm.weight.requires_grad)
    lean = copy.deepcopy(model)
    fold_batch_norms(lean, images)
    save_memory(lean)
    expected, found = gradients(model, images, amp), gradients(lean, images, amp)
    assert expected.keys() == found.keys()
    # In the scale of the module: a bias before a batch norm in train mode has a gradient of zero,
    # of which rounding is all that can be compared.
    scale: dict[str, float] = {}
    for each, gradient in expected.items():
        module = each.rpartition(".")[0]
        scale[module] = max(scale.get(module, 1e-6), gradient.norm().item())
    for each, gradient in expected.items():
        error = (found[each] - gradient).norm().item() / scale[each.rpartition(".")[0]]
        assert error < (0.05 if amp else 1e-3), each


def gradients(model: nn.Module, images: Tensor, amp: bool) -> dict[str, Tensor]:
    """Of one step, with the same dropout every time."""
    torch.manual_seed(1)
    with torch.autocast("cuda", torch.bfloat16, enabled=amp):
        loss = model(images).float().square().mean()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_what_smartfrz_costs_is_measured():
    predictor = AttentionPredictor(window=5)
    flops = decision_flops(predictor, 1)
    times = training_times(tiny_run("smartfrz", options=vars(SmartFRZOptions())), predictor, 2)
    assert all(map(math.isfinite, times.values()))
    assert decision_flops(predictor.cuda(), 1) == flops


def test_a_step_with_cached_features_does_not_wait_for_the_gpu():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)).cuda()
    inputs = torch.randn(8, 8, device="cuda")
    cache = FeatureCache(frozen(model, ["0", "2"], layers=find_layers(model, inputs)))
    for keys in (range(4), range(4), range(4, 8)):
        cache(keys, inputs[keys.start : keys.stop])
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs = [cache([0, 1, 2, 3], inputs[:4]) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(outputs[2], model(inputs[:4]))
    cache([0, 1, 2, 3], inputs[:4] + 1)
    with pytest.raises(ValueError, match="Sample 0 has other inputs"):
        cache([0, 1, 2, 3], inputs[:4])


def stepped(backward_of: Callable[[Freezer, Callable[..., Tensor]], Any], amp: bool) -> Any:
    """Trains a ResNet, of which layers freeze; returns losses and weights."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    freezer = Freezer(model, optimizer, Scripted({6: ["conv1"], 9: ["layer1.0.conv1"]}))

    def loss_fn(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            return nn.functional.cross_entropy(model(images).float(), labels)

    backward = backward_of(freezer, loss_fn)
    losses = []
    for step in range(14):
        seeded = torch.Generator("cuda").manual_seed(step)
        images = torch.randn(4, 3, 64, 64, device="cuda", generator=seeded)
        losses.append(backward(images, torch.arange(4, device="cuda")))
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    assert freezer.frozen.keys() == {"conv1", "layer1.0.conv1"}
    return torch.stack(losses), model.state_dict()


def eager(freezer: Freezer, loss_fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def backward(*batch: Tensor) -> Tensor:
        loss = loss_fn(*batch)
        loss.backward()
        return loss.detach()

    return backward


@pytest.mark.parametrize("amp", [False, True])
def test_captured_steps_train_like_others(amp):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses, weights = stepped(CapturedBackward, amp)
    expected, others = stepped(eager, amp)
    tolerance = 0.05 if amp else 1e-3
    torch.testing.assert_close(losses, expected, rtol=tolerance, atol=tolerance)
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=tolerance, atol=tolerance)


def test_captured_steps_draw_new_random_numbers():
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 1)).cuda()
    freezer = Freezer(model, torch.optim.SGD(model.parameters(), lr=0.0))
    backward = CapturedBackward(freezer, lambda x: model(x).sum())
    losses = [backward(torch.ones(4, 64, device="cuda")).item() for _ in range(8)]
    assert len({*losses}) == len(losses)


def test_what_reads_results_is_not_captured():
    model = nn.Linear(8, 1).cuda()
    freezer = Freezer(model, torch.optim.SGD(model.parameters(), lr=0.0))

    def loss_fn(x: Tensor) -> Tensor:
        loss = model(x).sum()
        return loss * 2 if loss.item() > 0 else loss

    backward = CapturedBackward(freezer, loss_fn)
    x = torch.ones(4, 8, device="cuda")
    first = backward(x)
    with pytest.warns(UserWarning, match="cannot be captured as a CUDA graph"):
        later = [backward(x) for _ in range(5)]
    assert all(torch.equal(loss, first) for loss in later)


def test_a_captured_step_does_not_wait_for_the_gpu():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    freezer = Freezer(model, optimizer)
    backward = CapturedBackward(freezer, lambda x: model(x).sum())
    x = torch.ones(4, 8, device="cuda")
    for step in range(10):
        if step == 6:
            torch.cuda.set_sync_debug_mode("error")
        backward(x)
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.set_sync_debug_mode("default")
