"""Tests that frozen layers never change and active layers receive autograd's gradients."""

from collections.abc import Callable
from functools import partial
from itertools import takewhile
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel, update_bn

from smartfrz import Freezer, Layer, find_layers
from tests.helpers.architectures import ARCHITECTURES, Architecture, loss_of
from tests.helpers.scripted import Scripted, freeze_by_hand

every_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)


def first_half(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers[: len(layers) // 2] if not layer.is_head]


def every_other(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers[1::2] if not layer.is_head]


def all_but_head(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if not layer.is_head]


def freezer_at_step(
    step: int, model: nn.Module, optimizer: Optimizer, choose: Callable[[list[Layer]], list[Layer]]
) -> Freezer:
    layers = find_layers(model)
    names = [layer.name for layer in choose(layers)]
    return Freezer(model, optimizer, Scripted({step: names}), layers)


def gradients(model: nn.Module, inputs: object) -> dict[str, Tensor | None]:
    """The gradients of one step, with the same dropout every time."""
    model.zero_grad()
    torch.manual_seed(1)
    loss_of(model, inputs).backward()
    return {name: param.grad for name, param in model.named_parameters()}


@pytest.mark.parametrize("choose", [first_half, every_other, all_but_head])
@every_architecture
def test_gradients_are_those_of_autograd(
    architecture: Architecture, choose: Callable[[list[Layer]], list[Layer]]
):
    model, stock, full = (architecture.build() for _ in range(3))
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    freezer = freezer_at_step(0, model, optimizer, choose)
    loss_of(model, architecture.inputs()).backward()
    frozen = freezer.step()
    optimizer.step()

    stock.load_state_dict(model.state_dict())
    full.load_state_dict(model.state_dict())
    freeze_by_hand(stock, frozen, like=model)
    freeze_by_hand(full, frozen, like=model)
    full.requires_grad_(True)
    inputs = architecture.inputs()
    ours, theirs, all_ = (gradients(twin, inputs) for twin in (model.train(), stock, full))

    frozen_params = {param for layer in frozen for param in layer.params}
    for name, param in model.named_parameters():
        if param in frozen_params:
            assert ours[name] is None
            assert theirs[name] is None
        elif all_[name] is None:  # unused in this forward pass
            assert ours[name] is None
        else:
            assert torch.equal(ours[name], theirs[name])
            torch.testing.assert_close(ours[name], all_[name])
    for key, value in stock.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def state_of(layers: list[Layer]) -> list[Tensor]:
    """Copies of all weights of some layers and of their norms' running statistics."""
    norms = [norm for layer in layers for norm in layer.norms]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    params = [param for layer in layers for param in layer.params]
    return [tensor.detach().clone() for tensor in params + buffers]


def train_and_freeze(
    architecture: Architecture,
    make_optimizer: Callable[..., Optimizer],
    choose: Callable[[list[Layer]], list[Layer]] = every_other,
    steps: int = 50,
) -> None:
    """Freezes at step 2 and checks that only active layers have changed ``steps`` steps later."""
    model = architecture.build()
    optimizer = make_optimizer(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 + steps)
    freezer = freezer_at_step(2, model, optimizer, choose)
    for step in range(3 + steps):
        model.train()
        loss_of(model, architecture.inputs()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if freezer.step():
            assert step == 2
            frozen = [layer for layer in freezer.layers if layer.name in freezer.frozen]
            training = [layer for layer in freezer.layers if layer not in frozen]
            frozen_before, training_before = state_of(frozen), state_of(training)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=False)
    assert frozen == choose(freezer.layers)
    assert all(map(torch.equal, state_of(frozen), frozen_before))
    assert not any(map(torch.equal, state_of(training), training_before))
    assert all(param.grad is None for layer in frozen for param in layer.params)
    assert not any(norm.training for layer in frozen for norm in layer.norms)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.1),
        partial(AdamW, lr=0.001, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
@every_architecture
def test_frozen_layers_never_change(
    architecture: Architecture, make_optimizer: Callable[..., Optimizer]
):
    train_and_freeze(architecture, make_optimizer)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True),
        partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.1, foreach=True),
        partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.1, fused=True),
        partial(AdamW, lr=0.001, weight_decay=0.1, foreach=True),
        partial(AdamW, lr=0.001, weight_decay=0.1, fused=True),
        partial(Adam, lr=0.001, weight_decay=0.1, amsgrad=True),
        partial(RMSprop, lr=0.001, weight_decay=0.1, momentum=0.9),
        partial(Adagrad, lr=0.001, weight_decay=0.1),
    ],
    ids=[
        "nesterov",
        "foreach",
        "fused",
        "adam foreach",
        "adam fused",
        "amsgrad",
        "rmsprop",
        "adagrad",
    ],
)
@pytest.mark.parametrize("name", ["torchvision vgg", "timm deit"])
def test_frozen_layers_never_change_under_any_optimizer(
    name: str, make_optimizer: Callable[..., Optimizer]
):
    train_and_freeze(ARCHITECTURES[name], make_optimizer, all_but_head)


@every_architecture
def test_no_backward_pass_below_the_first_layer_that_trains(architecture: Architecture):
    model = architecture.build()
    freezer = freezer_at_step(0, model, SGD(model.parameters(), lr=0.01), first_half)
    loss_of(model, architecture.inputs()).backward()
    frozen = freezer.step()
    calls: list[tuple[bool, bool]] = []
    for layer in freezer.layers:
        for module in layer.modules:
            module.register_forward_hook(partial(note_call, calls, layer in frozen))
    loss_of(model, architecture.inputs())
    below = list(takewhile(lambda call: call[0], calls))
    assert below or freezer.layers[0].is_head
    assert not any(requires_grad for _, requires_grad in below)
    assert any(requires_grad for _, requires_grad in calls)


def note_call(calls: list, is_frozen: bool, module: nn.Module, args: object, output: Any) -> None:
    """Forward hook: notes whether the layer is frozen and its output requires a gradient."""
    output = output[0] if isinstance(output, tuple) else output
    calls.append((is_frozen, output.requires_grad))


def test_spectral_norm_of_a_frozen_layer_stands_still():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(3, 4), spectral, nn.Linear(4, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["1"]}))
    model(torch.randn(8, 3)).square().mean().backward()
    freezer.step()
    before = spectral.weight
    for _ in range(5):
        model.train()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
    assert torch.equal(spectral.weight, before)


def test_the_older_spectral_norm_of_a_frozen_layer_stands_still():
    spectral = nn.utils.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(3, 4), spectral, nn.Linear(4, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["1"]}))
    model(torch.randn(8, 3)).square().mean().backward()
    freezer.step()
    model.eval()(torch.randn(8, 3))
    before = spectral.weight.clone()
    for _ in range(5):
        model.train()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
    assert torch.equal(spectral.weight, before)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_frozen_embedding_with_a_largest_norm_stands_still(kind):
    embedding = kind(10, 4, max_norm=0.5)
    model = nn.Sequential(embedding, nn.Flatten(), nn.LazyLinear(2))
    words = torch.arange(6).view(2, 3)
    model(words)
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["0"]}), find_layers(model, words))
    model(words).square().mean().backward()
    freezer.step()
    before = embedding.weight.clone()
    assert before.norm(dim=1).max() <= 0.5 + 1e-6
    model(torch.arange(4, 10).view(2, 3))
    assert torch.equal(embedding.weight, before)


def test_frozen_statistics_outlive_update_bn():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["0"]}))
    model(torch.randn(8, 3)).square().mean().backward()
    freezer.step()
    before = model[1].running_mean.clone()
    averaged = AveragedModel(model)
    update_bn([torch.randn(8, 3) for _ in range(3)], averaged)
    assert torch.equal(averaged.module[1].running_mean, before)


class FusedLinear(nn.Linear):
    """A linear layer with the statistics of its batch norm (pytorch#23357)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("running_mean", torch.zeros(outputs))
        self.register_buffer("running_var", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(super().forward(x), *statistics, training=self.training)


def test_statistics_inside_a_frozen_weight_module_stand_still():
    model = nn.Sequential(FusedLinear(3, 4), nn.Linear(4, 2))
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({0: ["0"]}))
    model(torch.randn(8, 3)).square().mean().backward()
    freezer.step()
    before = model[0].running_mean.clone()
    model.train()(torch.randn(8, 3))
    assert torch.equal(model[0].running_mean, before)


def test_an_optimizer_that_would_move_frozen_weights_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="LBFGS is not supported"):
        Freezer(model, LBFGS(model.parameters()))
