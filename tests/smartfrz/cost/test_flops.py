"""Tests of training FLOPs against published numbers, hand counts and PyTorch's counter."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from smartfrz import find_layers
from smartfrz.cost.flops import forward_macs, training_flops
from smartfrz.graph.tracing import Call, Inputs, trace
from tests.helpers.architectures import ARCHITECTURES, loss_of


def imagenet_trace(build: Callable[[], nn.Module]) -> tuple[list[Call], list[nn.Parameter]]:
    """A trace of one image of 224x224 through a model on the meta device, and its parameters."""
    with torch.device("meta"):
        model = build()
        return trace(model, torch.empty(1, 3, 224, 224)), list(model.parameters())


@pytest.mark.parametrize(
    ("name", "epochs", "exact", "papers", "tolerance"),
    [
        ("resnet50", 10, 12_268, 12_360, 0.01),
        ("vgg11", 10, 22_827, 22_950, 0.01),
        ("mobilenet_v2", 10, 902, 960, 0.02),
        ("deit_tiny_patch16_224", 100, 37_610, 32_400, 0.01),
    ],
)
def test_full_training_in_tflops(
    name: str, epochs: int, exact: float, papers: float, tolerance: float
):
    """Tables 1 and 2: full training on 50,000 images."""
    import timm
    from torchvision.models import get_model

    build = (lambda: timm.create_model(name)) if "deit" in name else (lambda: get_model(name))
    calls, params = imagenet_trace(build)
    run = 50_000 * epochs / 1e12
    assert run * training_flops(calls, params) == pytest.approx(exact, rel=1e-3)
    counted_so = run * training_flops(calls, params, as_in_paper=True)
    assert counted_so == pytest.approx(papers, rel=tolerance)
    assert training_flops(calls, params) == 3 * 2 * forward_macs(calls)


def cost(model: nn.Module, inputs: Inputs, trains: list[nn.Module], **how: bool) -> int:
    """MACs of one optimizer step in which only some modules train."""
    params = [param for module in trains for param in module.parameters()]
    flops = training_flops(trace(model, inputs), params, **how)
    assert flops % 2 == 0
    return flops // 2


def test_chain_of_linear_layers():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.Linear(5, 2))
    first, _, second, head = model
    x = torch.zeros(1, 3)
    a, b, c = 3 * 4, 4 * 5, 5 * 2
    assert cost(model, x, []) == a + b + c
    assert cost(model, x, [first, second, head]) == 3 * (a + b + c)
    assert cost(model, x, [head]) == a + b + 2 * c  # nothing below the head trains
    assert cost(model, x, [second, head]) == a + 2 * b + 3 * c
    assert cost(model, x, [first, head]) == 3 * a + 2 * b + 3 * c  # features through the second
    assert cost(model, x, [head], input_gradients=True) == 2 * a + 2 * b + 3 * c
    assert cost(model, torch.zeros(7, 3), [second, head]) == 7 * (a + 2 * b + 3 * c)


class Residual(nn.Module):
    """A stem, a branch beside the identity, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.branch(x)  # in place, as torchvision does it
        return self.head(x)


def test_residual_branch():
    model = Residual()
    x = torch.zeros(1, 3)
    stem, branch, head = 12, 16, 8
    assert cost(model, x, [model.stem, model.branch, model.head]) == 3 * (stem + branch + head)
    assert cost(model, x, [model.branch, model.head]) == stem + 2 * branch + 3 * head
    assert cost(model, x, [model.stem, model.head]) == 3 * stem + 2 * branch + 3 * head
    assert cost(model, x, [model.head]) == stem + branch + 2 * head


class Parallel(nn.Module):
    """Two branches on the input that can be frozen independently."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], dim=1))


def test_parallel_branches():
    model = Parallel()
    assert cost(model, torch.zeros(1, 3), [model.right, model.head]) == 12 + 3 * 12 + 3 * 16


class Constant(nn.Module):
    """A frozen branch on a constant, which may be allocated in the memory of an earlier tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).exp().exp()
        return x + self.branch(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))


def test_constants_need_no_gradient():
    model = Constant()
    assert cost(model, torch.zeros(1, 4), [model.first]) == 3 * 16 + 16


class Attention(nn.Module):
    """Scaled dot-product attention, by PyTorch's function or by matrix products."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (project(x)[:, None] for project in (self.query, self.key, self.value))
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_attention_products(fused: bool):
    model = Attention(fused)
    x = torch.zeros(2, 3, 4)
    linear, scores, mixed = 2 * 3 * 4 * 4, 2 * 3 * 3 * 4, 2 * 3 * 3 * 4
    everything = [model.query, model.key, model.value]
    assert cost(model, x, everything) == 3 * (3 * linear + scores + mixed)
    assert cost(model, x, everything, as_in_paper=True) == 3 * 3 * linear
    assert cost(model, x, [model.value]) == 2 * linear + 3 * linear + scores + 2 * mixed
    assert cost(model, x, [model.query]) == 2 * linear + 3 * linear + 2 * scores + 2 * mixed


@pytest.mark.parametrize(
    ("convolution", "shape", "macs"),
    [
        (nn.Conv2d(6, 8, 3, padding=1, bias=False), (1, 6, 5, 5), 8 * 25 * 6 * 9),
        (nn.Conv2d(6, 8, 3, stride=2), (1, 6, 5, 5), 8 * 4 * 6 * 9),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 5, 5), 6 * 25 * 9),
        (nn.Conv2d(6, 12, 3, padding=1, groups=3), (1, 6, 5, 5), 12 * 25 * 2 * 9),
        (nn.ConvTranspose2d(6, 8, 2, stride=2), (1, 6, 5, 5), 6 * 25 * 8 * 4),
        (nn.Conv1d(6, 8, 3), (2, 6, 5), 2 * 8 * 3 * 6 * 3),
        (nn.Conv3d(2, 4, 1), (1, 2, 3, 3, 3), 4 * 27 * 2),
    ],
    ids=["plain", "strided", "depthwise", "grouped", "transposed", "1d", "3d"],
)
def test_convolutions(convolution: nn.Module, shape: tuple[int, ...], macs: int):
    x = torch.zeros(shape)
    assert cost(convolution, x, []) == macs
    assert cost(convolution, x, [convolution]) == 3 * macs


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(layer: type[nn.RNNBase], device: str):
    """Two bidirectional layers, whose matrices are all multiplied at each of seven time steps."""
    recurrent = layer(5, 4, num_layers=2, bidirectional=True, batch_first=True, device=device)
    calls = trace(recurrent, torch.zeros(3, 7, 5, device=device))
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[layer]
    forward = 3 * 7 * gates * 4 * 2 * ((5 + 4) + (8 + 4))
    assert forward_macs(calls) == forward
    assert training_flops(calls, []) == 2 * forward
    # The initial hidden state is a constant without a gradient.
    of_the_start = 3 * gates * 4 * 2 * 2 * 4
    full = training_flops(calls, list(recurrent.parameters()))
    assert 2 * (3 * forward - of_the_start) <= full <= 2 * 3 * forward


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(4), (2, 4, 5, 5)),
        (nn.LayerNorm(4), (2, 3, 4)),
        (nn.GroupNorm(2, 4), (2, 4, 5)),
    ],
    ids=lambda case: type(case).__name__,
)
def test_norms_are_counted_as_in_the_paper_only(norm: nn.Module, shape: tuple[int, ...]):
    x = torch.zeros(shape)
    assert cost(norm, x, [norm]) == 0
    assert cost(norm, x, [], as_in_paper=True) == 2 * x.numel()
    assert cost(norm, x, [norm], as_in_paper=True) == 3 * 2 * x.numel()


def test_frozen_norm_passes_gradients_on():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    x = torch.zeros(1, 3)
    ends = [model[0], model[2]]
    assert cost(model, x, ends, as_in_paper=True) == 3 * 12 + 2 * 8 + 3 * 8
    assert cost(model, x, [model[2]], as_in_paper=True) == 12 + 8 + 2 * 8


@pytest.mark.parametrize("choice", ["all", "last half", "every other"])
@pytest.mark.parametrize("name", ["timm resnet", "timm mixer", "torchvision vgg"])
def test_agrees_with_pytorchs_counter(name: str, choice: str):
    """On models without grouped convolutions, which PyTorch counts wrongly in the backward pass."""
    architecture = ARCHITECTURES[name]
    model, inputs = architecture.build(), architecture.inputs()
    layers = find_layers(model, inputs)
    start, by = {"all": (0, 1), "last half": (len(layers) // 2, 1), "every other": (0, 2)}[choice]
    training = {param for layer in layers[start::by] for param in layer.params}
    for param in model.parameters():
        param.requires_grad_(param in training)
    with FlopCounterMode(display=False) as counter:
        loss_of(model, inputs).backward()
    calls = trace(model, inputs)
    first = next(product for call in calls for product in call.products if not product.is_norm)
    # Autograd skips the gradient of the network's input, which 3 x forward includes.
    skipped = 2 * first.macs if start == 0 else 0
    assert training_flops(calls, training) - skipped == counter.get_total_flops()


def test_a_frozen_prefix_saves_more_than_as_many_frozen_layers_further_up():
    layers = [nn.Linear(4, 4, bias=False) for _ in range(6)]
    model, x = nn.Sequential(*layers), torch.zeros(1, 4)
    assert cost(model, x, layers[3:]) == 16 * (3 * 1 + 2 + 2 * 3)
    assert cost(model, x, layers[::2]) == 16 * (3 * 3 + 3 * 2)
    assert cost(model, x, layers[:3]) == 16 * (3 * 3 + 3 * 2)


@pytest.fixture(scope="module", params=["timm resnet", "torchvision swin", "transformers albert"])
def traced(request: pytest.FixtureRequest) -> tuple[list[Call], list[nn.Parameter]]:
    architecture = ARCHITECTURES[request.param]
    model = architecture.build()
    return trace(model, architecture.inputs()), list(model.parameters())


@given(data=st.data(), as_in_paper=st.booleans())
def test_cost_grows_with_what_trains(
    traced: tuple[list[Call], list[nn.Parameter]], data: st.DataObject, as_in_paper: bool
):
    calls, params = traced
    fate = data.draw(st.lists(st.sampled_from("fst"), min_size=len(params), max_size=len(params)))
    fewer = [param for param, kind in zip(params, fate, strict=True) if kind == "t"]
    more = [param for param, kind in zip(params, fate, strict=True) if kind in "st"]
    none, some, many, every = (
        training_flops(calls, trains, as_in_paper) for trains in ([], fewer, more, params)
    )
    assert none <= some <= many <= every <= 3 * none


def test_a_copy_of_the_input_is_the_input():
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.transpose(1, 2).contiguous())

    model = Patches()
    calls = trace(model, torch.zeros(1, 8, 5))
    assert training_flops(calls, list(model.parameters())) == 3 * 2 * forward_macs(calls)
    assert training_flops(calls, []) == 2 * forward_macs(calls)


def test_a_product_of_complex_numbers_is_four():
    model = nn.Linear(3, 4, dtype=torch.cfloat)
    calls = trace(model, torch.zeros(2, 3, dtype=torch.cfloat))
    assert forward_macs(calls) == 4 * 2 * 3 * 4


class StopGradient(nn.Module):
    """A first layer of whose output only a detached copy goes on, a view of it or an index."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.how == "index":
            return self.second(x[y.argmax(dim=1) % 2])
        return self.second(y.detach()[:, :] if self.how == "view" else y.detach() + 1)


@pytest.mark.parametrize("how", ["detach", "view", "index"])
def test_no_gradient_passes_where_none_is_computed(how: str):
    model = StopGradient(how)
    x = torch.ones(2, 4)
    first, second = 2 * 16, 2 * 8
    assert cost(model, x, [model.first]) == 3 * first + second


def test_a_trace_in_inference_mode_is_the_same():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)), (1, 3, 5, 5)
    expected = trace(model, torch.zeros(x))
    with torch.inference_mode():
        found = trace(model, torch.zeros(x))
    assert found == expected
    assert forward_macs(found) == 3 * 3 * 3 * 36 + 36 * 2
