"""Tests of traps that others met when they froze layers, each with the report that describes it."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.optim import Lookahead
from torch import Tensor, nn
from torch.ao import quantization
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.func import functional_call, grad
from torch.optim import LBFGS, SGD, AdamW, Muon, Optimizer

from smartfrz import Freezer, find_layers
from tests.helpers.scripted import Scripted


def build(norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), norm(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def batch(step: int) -> Tensor:
    torch.manual_seed(step)
    return torch.randn(8, 3)


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs).square().mean()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def train(
    model: nn.Module,
    freezer: Freezer,
    steps: range,
    backward: Callable[[nn.Module, Tensor], None] = lambda model, x: loss_of(model, x).backward(),
) -> set[str]:
    """Trains; returns the names of what has moved since the last freeze."""
    optimizers = freezer.optimizer if isinstance(freezer.optimizer, list) else [freezer.optimizer]
    before: dict[str, Tensor] = {}
    for step in steps:
        model.train()
        backward(model, batch(step))
        if freezer.step():
            before = state_of(model)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return moved(model, before) if before else set()


SECOND_AND_HEAD = {f"{index}.{name}" for index in (2, 4) for name in ("weight", "bias")}


def with_functional_gradients(model: nn.Module, x: Tensor) -> None:
    """Computes gradients of all parameters, whether they require one or not (functorch#701)."""

    def loss(params: dict[str, Tensor]) -> Tensor:
        return functional_call(model, params, (x,)).square().mean()

    gradients = grad(loss)({name: param.detach() for name, param in model.named_parameters()})
    for name, param in model.named_parameters():
        param.grad = gradients[name]


def with_gradient_surgery(model: nn.Module, x: Tensor) -> None:
    """Writes a zero gradient where there is none, as implementations of PCGrad do."""
    loss_of(model, x).backward()
    for param in model.parameters():
        param.grad = torch.zeros_like(param) if param.grad is None else param.grad


@pytest.mark.parametrize("backward", [with_functional_gradients, with_gradient_surgery])
def test_gradients_that_others_assign_to_frozen_parameters_are_discarded(backward):
    model = build(nn.LayerNorm)
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    freezer = Freezer(model, optimizer, Scripted({2: ["0"]}))
    assert train(model, freezer, range(6), backward) == SECOND_AND_HEAD
    assert optimizer.state.keys().isdisjoint(model[0].parameters())


def convert_norms(model: nn.Module) -> None:
    """Lightning's ``sync_batchnorm=True`` replaces modules (timm#2422, mmdetection#577)."""
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


def assign_parameters(model: nn.Module) -> None:
    """Replaces parameters, as resizing embeddings may do as well (transformers#3519)."""
    model.load_state_dict(state_of(model), assign=True)


@pytest.mark.parametrize("change", [convert_norms, assign_parameters])
@pytest.mark.parametrize("is_resumed", [False, True])
def test_modules_that_were_replaced_are_noticed_before_anything_freezes(change, is_resumed: bool):
    """Else the freezer would freeze modules that the model does not contain any more."""
    model = build()
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({5: ["0"]}))
    change(model)
    with pytest.raises(ValueError, match=r"does not contain.*\['0'.*make the freezer after"):
        if is_resumed:
            freezer.load_state_dict({"step": 5, "frozen": {"0": 5}, "policy": {}})
        freezer.step()
    assert freezer.frozen == {}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.second, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.act(self.norm(self.conv(x)))).mean((2, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Please use quant_min")
@pytest.mark.parametrize("is_fused", [False, True])
def test_fake_quantizers_of_frozen_layers_stop_observing(is_fused: bool):
    """Else their ranges would change the quantized weights (pytorch#26624, sparseml#1206)."""
    model = Net()
    if is_fused:
        model = quantization.fuse_modules_qat(model, [["conv", "norm", "act"]])
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    quantization.prepare_qat(model, inplace=True)
    images = torch.randn(4, 3, 8, 8)
    model(images)
    layers = find_layers(model, images)
    assert [layer.name for layer in layers] == ["conv", "second", "head"]
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({0: ["conv"]}), layers)
    loss_of(model, images).backward()
    freezer.step()
    before = state_of(model)
    model.train().apply(quantization.enable_observer)  # torchvision does it in every epoch
    model(5 * images)
    names = moved(model, before)
    assert not any(name.startswith(("conv", "norm")) for name in names)
    assert any(name.startswith("second.activation_post_process") for name in names)
    freezer.thaw(layers[:1])
    model.train()(9 * images)
    assert any(name.startswith("conv.activation_post_process") for name in moved(model, before))


class VectorQuantizer(nn.Module):
    """Has a codebook of moving averages (vector-quantize-pytorch#42 and #68)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, self.codebook).argmin(1)
        if self.training:
            self.codebook[nearest] = self.codebook[nearest].lerp(x.detach(), 0.1)
        return x + (self.codebook[nearest] - x).detach()


@pytest.mark.parametrize("frozen", ["0", "2"])
def test_buffers_of_frozen_layers_that_still_change_are_named(frozen: str):
    model = nn.Sequential(
        nn.Linear(3, 4), VectorQuantizer(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({2: [frozen]}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, freezer, range(8))
    expected = ["['1.codebook'] of frozen layers still change"] if frozen == "0" else []
    assert len(caught) == len(expected)
    assert all(text in str(each.message) for text, each in zip(expected, caught, strict=True))


@pytest.fixture(scope="module")
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def zero_optimizer(params: Any, **options: Any) -> Optimizer:
    """Keeps the state in an optimizer inside (torchpack#18)."""
    return ZeroRedundancyOptimizer(params, SGD, **options)


def lookahead(params: Any, **options: Any) -> Optimizer:
    return Lookahead(SGD(params, **options), k=2)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrapped", [zero_optimizer, lookahead])
def test_the_state_inside_a_wrapper_of_an_optimizer_is_discarded_too(wrapped):
    model = build()
    optimizer = wrapped(model.parameters(), lr=0.1, momentum=0.9)
    freezer = Freezer(model, optimizer, Scripted({2: ["0"]}))
    assert train(model, freezer, range(6)) == SECOND_AND_HEAD
    inner = optimizer.optim if wrapped is zero_optimizer else optimizer._base_optimizer
    assert inner.state.keys() == {*model[2].parameters(), *model[4].parameters()}


def test_lbfgs_in_a_wrapper_is_refused():
    with pytest.raises(ValueError, match="LBFGS is not supported"):
        Freezer(model := build(), Lookahead(LBFGS(model.parameters())))


def test_several_optimizers():
    """Muon takes matrices only; the other parameters need a second optimizer (Muon#25)."""
    model = build()
    params = list(model.parameters())
    muon = Muon([param for param in params if param.ndim == 2], lr=0.1)
    adamw = AdamW([param for param in params if param.ndim < 2], lr=0.1)
    freezer = Freezer(model, [muon, adamw], Scripted({2: ["0"]}))
    assert train(model, freezer, range(6)) == SECOND_AND_HEAD
    for optimizer in (muon, adamw):
        assert optimizer.state
        assert all(param.requires_grad for param in optimizer.state)


def test_the_second_of_several_optimizers_is_watched_as_well():
    model = build()

    class Decaying(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for param in model.parameters():
                param.data.mul_(0.9)

    optimizers: list[Optimizer] = [Decaying(model[2].parameters()), SGD(model[4].parameters())]
    for order in (optimizers, optimizers[::-1]):
        freezer = Freezer(model, order, Scripted({0: ["0"]}))
        with pytest.raises(RuntimeError, match=r"(SGD or )?Decaying.* changed .*\['0'\]"):
            train(model, freezer, range(3))
        model.requires_grad_(True)


def test_an_optimizer_for_each_parameter_that_steps_in_the_backward_pass():
    """LOMO, GaLore and torchtune have optimizers in hooks of the parameters (pytorch#87397)."""
    model = build()
    optimizers = {param: AdamW([param], lr=0.1) for param in model.parameters()}

    def step(param: nn.Parameter) -> None:
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(step)
    freezer = Freezer(model, list(optimizers.values()), Scripted({2: ["0"]}))
    for index in range(6):
        model.train()
        loss_of(model, batch(index)).backward()
        if freezer.step():
            before = state_of(model)
    assert moved(model, before) == SECOND_AND_HEAD
    frozen = {*model[0].parameters(), *model[1].parameters()}
    assert {param for param in optimizers if not optimizers[param].state} == frozen


def resumed_by_torch(model: nn.Module, optimizer: Optimizer, freezer: Freezer) -> nn.Module:
    """Saves and resumes as ``torch.distributed.checkpoint`` does, and trains the copy."""
    weights, state = copy.deepcopy(get_state_dict(model, optimizer))
    twin = build()
    other = AdamW(twin.parameters(), lr=0.1)
    resumed = Freezer(twin, other, Scripted({2: ["0"]}))
    resumed.load_state_dict(freezer.state_dict())
    set_state_dict(twin, other, model_state_dict=weights, optim_state_dict=state)
    train(twin, resumed, range(4, 8))
    assert other.state.keys() == {*twin[2].parameters(), *twin[4].parameters()}
    return twin


@pytest.mark.slow
def test_resume_with_distributed_checkpoint():
    """It refuses parameters that train but have no state, so the freezer is loaded first
    (pytorch#132628, pytorch#192202).
    """
    model = build()
    optimizer = AdamW(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({2: ["0"]}))
    train(model, freezer, range(4))
    twin = resumed_by_torch(model, optimizer, freezer)
    train(model, freezer, range(4, 8))
    assert moved(twin, state_of(model)) == set()


class SAM(SGD):
    """Sharpness-aware minimisation in two steps, as in davda54/sam."""

    @torch.no_grad()
    def first_step(self) -> None:
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                self.state[param]["old"] = param.clone()
                param.add_(param.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                param.copy_(self.state[param]["old"])
        self.step()
        self.zero_grad()


def test_sharpness_aware_minimisation_freezes_before_the_first_step():
    """Between its steps the weights are not those that it trains (davda54/sam#8)."""
    model = build(nn.LayerNorm)
    optimizer = SAM(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({2: ["0"]}))
    for step in range(5):
        loss_of(model, batch(step)).backward()
        if freezer.step():
            before = state_of(model)
        optimizer.first_step()
        loss_of(model, batch(step)).backward()
        optimizer.second_step()
    assert moved(model, before) == SECOND_AND_HEAD
