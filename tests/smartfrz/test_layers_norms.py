"""Tests of layer discovery: which modules are norms, and the layers they join."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from smartfrz import find_layers
from tests.helpers.layers import layer_of, names


def test_norm_before_the_first_weight_joins_the_first_layer():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    layers = find_layers(model)
    assert layers[0].modules == (model[1], model[2], model[0])
    assert set(layers[0].params) == {*model[0].parameters(), *model[1].parameters()} | {
        *model[2].parameters()
    }


def test_norm_without_parameters_is_grouped_by_its_running_statistics():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    assert find_layers(model)[0].modules == (model[0], model[1])


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm1d(4, affine=True), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.SyncBatchNorm(4)],
    ids=lambda norm: type(norm).__name__,
)
def test_every_kind_of_norm_is_grouped(norm):
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(0, (1, 4)), norm, nn.Linear(4, 2))
    layers = find_layers(model, torch.zeros(4, 3))
    assert [layer.norms for layer in layers] == [(norm,), ()]


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class NormalizedLinear(nn.Linear):
    """A weight module in spite of its name."""


class PreNorm(nn.Module):
    """A block in spite of its name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.body = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.norm(x))


def test_norms_are_known_by_name_unless_they_have_a_weight_matrix():
    model = nn.Sequential(nn.Linear(3, 4), OwnNorm(), PreNorm(), NormalizedLinear(4, 2))
    layers = find_layers(model)
    assert names(layers) == ["0", "2.body", "3"]
    assert layers[0].norms == (model[1], model[2].norm)


class GRN(nn.Module):
    """Global response normalisation with the parameter shapes of ConvNeXt V2."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.beta


class ChannelNorm(GRN):
    """A norm by its name."""


class Conv1d(nn.Module):
    """A hand-written linear layer, as transformers has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4), (1, 4, 1, 1), (4, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("module", [GRN, ChannelNorm])
def test_scales_of_channels_open_no_layer_in_any_shape(module: type[GRN], shape: tuple[int, ...]):
    model = nn.Sequential(nn.Linear(3, 4), module(*shape), nn.PReLU(4), nn.Linear(4, 2))
    first, last = find_layers(model, torch.zeros(4, 4, 3))
    assert set(first.params) == {param for each in model[:3] for param in each.parameters()}
    assert first.norms == ((model[1],) if module is ChannelNorm else ())
    assert last.name == "3"


class ConvNorm(nn.Sequential):
    """A block in spite of its name, although its weights have one dimension larger than 1."""


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(4, 1), (1, 4)),
        (nn.Linear(1, 1), (1, 1)),
        (nn.Conv2d(4, 4, 1, groups=4), (1, 4, 2, 2)),
        (nn.Conv2d(4, 1, 1), (1, 4, 2, 2)),
        (nn.Conv2d(1, 1, 1), (1, 1, 2, 2)),
        (parametrizations.weight_norm(nn.Conv2d(4, 1, 1)), (1, 4, 2, 2)),
        (Conv1d(4, 1), (1, 4)),
        (nn.Embedding(1, 4), None),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else "",
)
def test_weights_of_one_output_or_one_channel_open_a_layer(
    module: nn.Module, shape: tuple[int, ...] | None
):
    model = ConvNorm(module, nn.PReLU())
    inputs = torch.zeros(1, dtype=torch.long) if shape is None else torch.zeros(shape)
    assert names(find_layers(model, inputs)) == ["0"]


@pytest.mark.parametrize("name", ["convnextv2_atto", "resmlp_12_224", "fastvit_t8"])
def test_scales_of_published_networks_open_no_layer(name: str):
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=2)
    small = ("grn", "gamma", "beta", "alpha", "layer_scale")
    found = find_layers(model, torch.empty(1, 3, 224, 224, device="meta"))
    assert not [layer.name for layer in found if layer.name.endswith((*small, "norm1", "norm2"))]
    with_scales = [name for name, _ in model.named_parameters() if name.split(".")[-1] in small]
    homes = layer_of(model, found)
    assert all(name in homes for name in with_scales)


def test_a_norm_may_have_a_row_of_scales():
    model = nn.Sequential(nn.Linear(3, 4), ChannelNorm(1, 4), nn.Linear(4, 2))
    assert [layer.norms for layer in find_layers(model)] == [(model[1],), ()]


class ABN(nn.Module):
    """A batch norm with an activation, named as in inplace_abn (mapillary/inplace_abn#163)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.leaky_relu(F.batch_norm(x, *statistics, self.weight, self.bias, self.training))


def test_norms_are_known_by_their_running_statistics():
    [first, _] = find_layers(nn.Sequential(nn.Linear(3, 4), ABN(4), nn.Linear(4, 2)))
    assert [type(norm) for norm in first.norms] == [ABN]


class AddNorm(nn.Module):
    """A norm with the dropout and the residual in front of it, as in Dive into Deep Learning."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(), nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(x))


def test_a_container_of_a_norm_is_no_norm():
    model = nn.Sequential(nn.Linear(3, 4), AddNorm(4), nn.Linear(4, 2))
    assert find_layers(model)[0].norms == (model[1].norm,)


class NormalisedCell(nn.Module):
    """Weights of its own and a norm inside, like XLNet's attention or fused modules of QAT."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.eye(size)), nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x @ self.weight)


def test_a_module_with_weights_and_a_norm_is_one_layer():
    model = nn.Sequential(nn.Linear(3, 4), NormalisedCell(4), nn.Linear(4, 2))
    layers = find_layers(model)
    assert names(layers) == ["0", "1", "2"]
    assert layers[1].params == tuple(model[1].parameters())
    assert layers[1].norms == (model[1].norm,)
