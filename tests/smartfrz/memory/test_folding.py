"""Tests of folding batch norms: outputs, gradients, updates, hooks and undoing."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from smartfrz import find_layers, fold_batch_norms, save_memory, unfold_batch_norms
from smartfrz.graph.tracing import trace
from smartfrz.memory.activations import activation_bytes
from smartfrz.memory.folding import folded
from tests.helpers.architectures import ARCHITECTURES, Architecture, loss_of
from tests.helpers.scripted import freeze

IMAGES = {name: each for name, each in ARCHITECTURES.items() if each.image}


class Norms(TorchDispatchMode):
    """Counts how many batch norms are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == "native_batch_norm"
        return func(*args, **(kwargs or {}))


def norms_computed(model: nn.Module, inputs: Tensor) -> int:
    with Norms() as norms:
        model(inputs)
    return norms.count


def with_statistics(model: nn.Module) -> nn.Module:
    """The model with random running statistics and norm weights."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            for param in module.parameters():
                nn.init.uniform_(param, 0.5, 1.5)
    return model


def pair() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return with_statistics(model)


def frozen_pair() -> nn.Module:
    model = pair()
    model[:2].requires_grad_(False).eval()
    return model


@pytest.mark.parametrize("frozen", ["prefix", "scattered"])
@pytest.mark.parametrize("architecture", IMAGES.values(), ids=IMAGES.keys())
def test_outputs_and_gradients_are_the_same(architecture: Architecture, frozen: str):
    model = with_statistics(architecture.build()).double()
    layers = find_layers(model)
    freeze(layers[: len(layers) // 2] if frozen == "prefix" else layers[1:-1:2])
    inputs = architecture.inputs().double()
    twin = copy.deepcopy(model)
    for each in (model, twin):
        each.zero_grad()
    fold_batch_norms(model, inputs)
    torch.manual_seed(1)
    loss_of(model, inputs).backward()
    torch.manual_seed(1)
    loss_of(twin, inputs).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv1d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(4, 6, 2),
    ],
    ids=["1d", "grouped", "reflected", "3d"],
)
@pytest.mark.parametrize("affine", [False, True])
def test_a_folded_convolution_is_both(convolution, affine):
    spatial = convolution.weight.ndim - 2
    norm_of = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[spatial]
    model = with_statistics(nn.Sequential(convolution, norm_of(6, affine=affine))).double().eval()
    x = torch.randn(2, 4, *[5] * spatial, dtype=torch.float64)
    expected = model(x)
    weight, bias = folded(*model)
    torch.testing.assert_close(convolution._conv_forward(x, weight, bias), expected)


def test_norms_of_frozen_layers_are_not_computed():
    torch.manual_seed(0)
    model = ARCHITECTURES["torchvision resnet"].build()
    layers, images = find_layers(model), torch.randn(2, 3, 32, 32)
    with_norm = [layer for layer in layers if layer.norms]
    assert norms_computed(model, images) == len(with_norm)
    fold_batch_norms(model, images)
    assert norms_computed(model, images) == len(with_norm)
    freeze(layers[:3])
    assert norms_computed(model, images) == len(with_norm) - 3
    freeze(layers[4:5])
    assert norms_computed(model, images) == len(with_norm) - 4
    model.requires_grad_(False).eval()
    assert norms_computed(model, images) == 0
    unfold_batch_norms(model)
    assert norms_computed(model, images) == len(with_norm)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    "change",
    [
        lambda model: nn.init.ones_(model[0].weight),
        lambda model: model[1].running_mean.add_(1),
        lambda model: model.load_state_dict(pair().state_dict()),
        lambda model: setattr(model[1].bias, "data", torch.ones(4)),
        lambda model: model.double().float(),
        lambda model: setattr(model[0], "weight", nn.Parameter(torch.ones(4, 3, 3, 3), False)),
    ],
    ids=["weight", "statistics", "state_dict", "data", "dtype", "parameter"],
)
def test_what_is_folded_follows_what_it_is_made_of(change):
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    fold_batch_norms(model, x)
    model(x)
    with torch.no_grad():
        change(model)
    assert norms_computed(model, x) == 0
    ours = model(x)
    unfold_batch_norms(model)
    torch.testing.assert_close(ours, model(x))


def test_an_output_that_goes_elsewhere_too_is_not_folded():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            between = self.conv(x)
            return self.head((self.norm(between) + between).mean((2, 3)))

    model, x = with_statistics(Twice()), torch.randn(2, 3, 4, 4)
    model.conv.requires_grad_(False)
    model.norm.requires_grad_(False).eval()
    stock = model(x)
    fold_batch_norms(model, x)
    assert torch.equal(model(x), stock)


def test_an_output_that_is_returned_too_is_not_folded():
    class Returning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            between = self.conv(x)
            return {"before": between, "after": self.norm(between)}

    model, x = with_statistics(Returning()).eval().requires_grad_(False), torch.randn(2, 3, 4, 4)
    stock = model(x)
    fold_batch_norms(model, x)
    for name, output in model(x).items():
        assert torch.equal(output, stock[name])


def test_a_convolution_in_half_precision_with_a_norm_in_full():
    convolution, norm = nn.Conv2d(3, 4, 1).bfloat16(), nn.BatchNorm2d(4)
    model = with_statistics(nn.Sequential(convolution, norm)).eval().requires_grad_(False)
    x = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    stock = model(x)
    fold_batch_norms(model, x)
    output = model(x)
    assert output.dtype == stock.dtype
    torch.testing.assert_close(output, stock, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("where", [0, 1])
def test_a_hook_sees_what_is_between(where):
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    seen = []
    if where == 0:
        model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    else:
        model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x)
    fold_batch_norms(model, x)
    model(x)
    assert torch.equal(seen[0], seen[-1])


def test_a_trace_sees_the_model_as_it_is():
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    before = [call.name for call in trace(model, x)]
    fold_batch_norms(model, x)
    assert [call.name for call in trace(model, x)] == before
    assert len(find_layers(model.requires_grad_(True), x)) == 2


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "register", ["register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_a_backward_hook_sees_what_is_between(register, which):
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5, requires_grad=True)
    seen = []
    getattr(model[which], register)(lambda module, *grads: seen.append(grads[-1][0].clone()))
    model(x).sum().backward()
    fold_batch_norms(model, x)
    model(x).sum().backward()
    assert len(seen) == 2 and torch.equal(*seen)


def test_a_hook_on_all_modules_sees_what_is_between():
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    fold_batch_norms(model, x)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: output * 1)
    try:
        assert norms_computed(model, x) == 1
    finally:
        handle.remove()
    assert norms_computed(model, x) == 0


@pytest.mark.parametrize("folded_first", [False, True])
def test_between_layers_that_train_nothing_is_kept_with_save_memory(folded_first: bool):
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 3, 1), *pair(), nn.Flatten()))
    model[1:3].requires_grad_(False).eval()
    x, twin = torch.randn(2, 3, 8, 8), copy.deepcopy(model)
    if folded_first:
        fold_batch_norms(model, x)
    save_memory(model)
    if not folded_first:
        fold_batch_norms(model, x)
    save_memory(twin)
    assert norms_computed(model, x) == 0
    kept, expected = (activation_bytes(lambda m=m: m(x), [*m.parameters()]) for m in (model, twin))
    assert kept == expected
    for each in (model, twin):
        each(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_stands_on_its_own(copied):
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    fold_batch_norms(model, x)
    expected = model(x)
    twin = copied(model)
    nn.init.zeros_(model[0].weight)
    assert norms_computed(twin, x) == 0
    assert torch.equal(twin(x), expected)


def test_with_autocast_and_save_memory():
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        stock = model(x)
        save_memory(model)
        fold_batch_norms(model, x)
        assert norms_computed(model, x) == 0
        torch.testing.assert_close(model(x), stock, rtol=0.03, atol=0.03)
    model[:2].requires_grad_(True).train()
    assert norms_computed(model, x) == 1


def test_compiled_code_is_left_alone():
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    stock = model(x)
    fold_batch_norms(model, x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), stock)


@pytest.mark.parametrize("amp", [False, True])
def test_what_is_folded_in_inference_mode_can_be_trained_on(amp: bool):
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5, requires_grad=True)

    def gradient() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            return torch.autograd.grad(model(x).square().sum(), x)[0]

    stock = gradient()
    with torch.inference_mode():
        fold_batch_norms(model, x)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            model(x)
    assert norms_computed(model, x) == 0
    torch.testing.assert_close(gradient(), stock, rtol=0.05 if amp else 1e-5, atol=0.05)


def test_tensors_that_were_made_in_inference_mode_are_not_folded():
    with torch.inference_mode():
        model = frozen_pair()
    x = torch.randn(2, 3, 5, 5)
    fold_batch_norms(model, x)
    with torch.inference_mode():
        model(x)
        model[1].running_mean.add_(1)
        assert torch.equal(model(x), model[3](model[2](model[1](model[0](x)))))


def test_weights_in_reused_memory_are_folded_again():
    model, x = frozen_pair(), torch.randn(2, 3, 5, 5)
    fold_batch_norms(model, x)
    model(x)
    for seed in range(20):  # the allocator soon returns the memory of the first weight
        torch.manual_seed(seed)
        model[0].weight = None
        model[0].weight = nn.Parameter(torch.randn(4, 3, 3, 3), requires_grad=False)
        twin = copy.deepcopy(model)
        unfold_batch_norms(twin)
        torch.testing.assert_close(model(x), twin(x))
