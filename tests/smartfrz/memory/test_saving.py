"""Tests of memory saving: gradients, and the bytes that a forward pass keeps."""

import copy
import gc
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from smartfrz import Layer, find_layers, restore_memory, save_memory
from smartfrz.memory.activations import activation_bytes
from smartfrz.memory.kept_tensors import ShapeOnly
from tests.helpers.architectures import ARCHITECTURES, Architecture, loss_of
from tests.helpers.scripted import freeze

every_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)
MIB = 2**20


def every_other(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers[1::2] if not layer.is_head]


def all_but_ends(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers[1:] if not layer.is_head]


def gradients(model: nn.Module, inputs: object) -> dict[str, Tensor]:
    """The gradients of one step, with the same dropout every time."""
    model.zero_grad()
    torch.manual_seed(1)
    loss_of(model, inputs).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(model: nn.Module, inputs: object, exactly: bool = False) -> None:
    """Compares gradients with and without memory saving, from the same running statistics."""
    before = copy.deepcopy(model.state_dict())
    stock = gradients(model, inputs)
    after = copy.deepcopy(model.state_dict())
    model.load_state_dict(before)
    save_memory(model)
    ours = gradients(model, inputs)
    assert ours.keys() == stock.keys()
    for name, gradient in stock.items():
        assert not gradient.isnan().any()
        if exactly:
            assert torch.equal(ours[name], gradient)
        torch.testing.assert_close(ours[name], gradient)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, after[key])


def frozen_batch_norms(model: nn.Module) -> bool:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    return any(not norm.training for norm in norms)


@pytest.mark.parametrize("choose", [every_other, all_but_ends])
@every_architecture
def test_gradients_are_those_of_autograd(architecture: Architecture, choose, monkeypatch):
    # Tensors that the backward pass is assumed not to read are filled with NaN.
    stock = ShapeOnly.unpacked
    monkeypatch.setattr(ShapeOnly, "unpacked", lambda kept: stock(kept).fill_(torch.nan))
    model = architecture.build()
    freeze(choose(find_layers(model)))
    assert_same_gradients(model, architecture.inputs(), exactly=not frozen_batch_norms(model))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 7, 6)),
    "reflected conv2d": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        (2, 4, 5, 5),
    ),
    "conv2d of one image": (lambda: nn.Conv2d(4, 6, 3), (4, 5, 5)),
    "conv2d like its input": (lambda: nn.Conv2d(4, 4, 3, padding=1), (4, 4, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3)),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), (2, 4, 3, 3)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), (6, 4)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(4), (2, 4, 3, 3)),
    "batch norm without weights": (lambda: nn.BatchNorm2d(4, affine=False), (2, 4, 3, 3)),
    "batch norm without statistics": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        (2, 4, 3, 3),
    ),
    "linear": (lambda: nn.Linear(4, 3), (2, 5, 4)),
    "relu": (nn.ReLU, (3, 7)),
    "relu6": (nn.ReLU6, (3, 7)),
    "leaky relu": (nn.LeakyReLU, (3, 7)),
    "max pool": (lambda: nn.MaxPool2d(3, 2, padding=1), (2, 4, 7, 6)),
    "max pool 1d": (lambda: nn.MaxPool1d(2), (2, 4, 7)),
    "large max pool": (lambda: nn.MaxPool1d(2), (1, 1, 40_000)),
    "average pool": (lambda: nn.AvgPool2d(2), (2, 4, 7, 6)),
    "adaptive average pool": (lambda: nn.AdaptiveAvgPool2d(2), (2, 4, 7, 6)),
}


def randomised(module: nn.Module) -> nn.Module:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("name", [name for name in MODULES if name != "large max pool"])
def test_gradcheck(name):
    build, shape = MODULES[name]
    torch.manual_seed(0)
    module = randomised(build()).double().eval().requires_grad_(False)
    save_memory(module)
    x = 4 * torch.randn(shape, dtype=torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(module, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(module, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_input_gradients_of_a_module(name, inplace, dtype):
    build, shape = MODULES[name]
    torch.manual_seed(0)
    module = randomised(build()).to(dtype).eval().requires_grad_(False)
    if hasattr(module, "inplace"):
        module.inplace = inplace
    x = (4 * torch.randn(shape)).to(dtype).requires_grad_()

    def gradient() -> tuple[Tensor, Tensor]:
        out = module(x + 0)
        return out, torch.autograd.grad(out.square().sum(), x)[0]

    stock = gradient()
    save_memory(module)
    for ours, theirs in zip(gradient(), stock, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d])
def test_dropout_drops_the_same_elements(dropout, p):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), dropout(p), nn.Conv2d(8, 2, 1))
    x = torch.randn(4, 3, 5, 5)

    def gradient() -> Tensor:
        torch.manual_seed(0)
        return torch.autograd.grad(model(x).square().sum(), model[0].weight)[0]

    stock = gradient()
    save_memory(model)
    assert torch.equal(gradient(), stock)


def kept(model: nn.Module, inputs: Tensor) -> float:
    """MiB that a forward pass keeps, including its inputs."""
    known = [*model.parameters(), *model.buffers()]
    return activation_bytes(lambda: model(inputs.clone()), known) / MIB


def test_a_resnet_50_with_a_frozen_body_keeps_its_images_and_signs():
    torch.manual_seed(0)
    model, images = torchvision.models.resnet50(), torch.randn(2, 3, 64, 64)
    assert kept(model, images) == pytest.approx(13.59, abs=0.02)
    freeze(all_but_ends(find_layers(model, images)))
    assert kept(model, images) == pytest.approx(13.39, abs=0.02)
    save_memory(model)
    # Images 0.09, signs 0.17, indices 0.03, pooled features and logits 0.02.
    assert kept(model, images) == pytest.approx(0.33, abs=0.02)


def test_scattered_frozen_layers_are_paid_for_too():
    torch.manual_seed(0)
    model, images = torchvision.models.mobilenet_v2(), torch.randn(2, 3, 64, 64)
    freeze(every_other(find_layers(model, images)))
    stock = kept(model, images)
    save_memory(model)
    assert kept(model, images) < 0.6 * stock


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.LeakyReLU])
def test_a_layer_that_trains_shares_what_the_activation_before_it_keeps(activation, inplace):
    model = nn.Sequential(nn.Conv2d(3, 16, 1), activation(inplace=inplace), nn.Conv2d(16, 4, 1))
    images = torch.randn(2, 3, 16, 16)
    save_memory(model)
    elements, output = 2 * 16 * 16 * 16, 4 * 2 * 4 * 16 * 16
    assert kept(model, images) * MIB == images.nbytes + output + 4 * elements
    model[2].requires_grad_(False)
    assert kept(model, images) * MIB == images.nbytes + output + elements / 8
    model[2].requires_grad_(True)
    model.append(nn.BatchNorm2d(4)).append(activation(inplace=inplace)).append(nn.BatchNorm2d(4))
    save_memory(model)
    # Statistics of the norms, the input of the first and the output of the second.
    statistics = 2 * 2 * 4 * 4
    expected = images.nbytes + 4 * elements + 2 * output + statistics
    assert kept(model, images) * MIB == expected


def test_nothing_is_kept_alive_once_the_output_is_gone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    save_memory(model)
    activations = []
    for relu in (model[1], model[3]):
        relu.register_forward_hook(
            lambda module, args, out: activations.append(StorageWeakRef(out.untyped_storage()))
        )
    gc.disable()
    try:
        out = model(torch.randn(1, 3, 4, 4))
        assert not any(storage.expired() for storage in activations)
        del out
        assert all(storage.expired() for storage in activations)
    finally:
        gc.enable()


def test_undone_and_done_twice():
    model = ARCHITECTURES["torchvision resnet"].build()
    forwards = [module.forward for module in model.modules()]
    save_memory(model)
    changed = [module for module in model.modules() if "forward" in vars(module)]
    save_memory(model)
    assert len(changed) > 10
    restore_memory(model)
    assert [module.forward for module in model.modules()] == forwards
    assert not any("forward" in vars(module) for module in model.modules())


def test_parameters_buffers_names_and_hooks_are_the_same():
    model = ARCHITECTURES["torchvision resnet"].build()
    freeze(every_other(find_layers(model)))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    seen = []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, out: seen.append(module))
    save_memory(model)
    model(torch.randn(2, 3, 32, 32))
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert tensors.keys() == after.keys()
    assert set(seen) == set(model.modules())


def test_what_is_thawed_trains():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    freeze(all_but_ends(find_layers(model, torch.zeros(1, 3, 8, 8))))
    save_memory(model)
    model.requires_grad_(True).train()
    assert_same_gradients(model, torch.randn(4, 3, 8, 8), exactly=True)


def test_a_copy_stands_on_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    save_memory(model)
    twin = copy.deepcopy(model)
    nn.init.zeros_(model[0].weight)
    x = torch.randn(1, 3, 8, 8)
    assert not torch.equal(twin(x), model(x))
    assert twin.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("amp", [False, True])
def test_autocast_and_channels_last(memory_format, amp):
    model = ARCHITECTURES["torchvision resnet"].build().to(memory_format=memory_format)
    freeze(every_other(find_layers(model)))
    inputs = torch.randn(4, 3, 32, 32).contiguous(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        stock = gradients(model, inputs)
        save_memory(model)
        ours = gradients(model, inputs)
    for name, gradient in stock.items():
        torch.testing.assert_close(ours[name], gradient)


def test_activation_checkpointing_decides_what_is_kept():
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
    block[2].requires_grad_(False)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)

    def gradient() -> Tensor:
        out = checkpoint(block, x, use_reentrant=False)
        return torch.autograd.grad(out.square().sum(), x)[0]

    def size() -> int:
        known = [x, *block.parameters()]
        return activation_bytes(lambda: checkpoint(block, x, use_reentrant=False), known)

    stock, stock_size = gradient(), size()
    save_memory(block)
    assert torch.equal(gradient(), stock)
    assert size() == stock_size


def test_compiled_code_is_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    freeze(all_but_ends(find_layers(model, torch.zeros(1, 3, 8, 8))))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    stock = torch.autograd.grad(model(x).square().sum(), x)[0]
    save_memory(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).square().sum(), x)[0], stock)


def test_function_transforms_work():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).requires_grad_(False)
    images = torch.randn(5, 3, 6, 6)

    def gradient() -> Tensor:
        of_one = torch.func.grad(lambda image: model(image[None]).square().sum())
        return torch.vmap(of_one)(images)

    stock = gradient()
    save_memory(model)
    torch.testing.assert_close(gradient(), stock)
