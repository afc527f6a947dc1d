"""On a GPU: runs of each kind, what they keep for the backward pass, what SmartFRZ costs."""

import copy
import math

import pytest
import torch
import torchvision
from torch import Tensor, nn

from experiments.options import SmartFRZOptions
from experiments.runs.training_loop import train
from experiments.studies.overhead import decision_flops, training_times
from smartfrz import FeatureCache, find_layers, fold_batch_norms, save_memory
from smartfrz.memory.bits import Bits
from smartfrz.predictor.attention import AttentionPredictor
from tests.helpers.counted import frozen
from tests.helpers.digits import ignore, save_random_predictor, tiny_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

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
