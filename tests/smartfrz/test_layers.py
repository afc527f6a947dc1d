"""Tests of layer discovery: execution order, grouping, and each parameter at most once."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from smartfrz import Layer, find_layers
from smartfrz.graph.tracing import trace
from tests.helpers.architectures import ARCHITECTURES, Architecture

every_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)


def names(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def layer_of(model: nn.Module, layers: list[Layer]) -> dict[str, str]:
    """The name of the layer of each parameter of a model."""
    homes = {param: layer.name for layer in layers for param in layer.parameters()}
    return {name: homes[param] for name, param in model.named_parameters() if param in homes}


class Backwards(nn.Module):
    """Registers its modules in the reverse order of their use."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.second_norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)
        self.first_norm = nn.LayerNorm(4)
        self.first = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_norm(self.first(x))
        return self.head(self.second_norm(self.second(x)))


def test_layers_come_in_execution_order_each_with_the_norm_behind_it():
    model = Backwards()
    layers = find_layers(model, torch.zeros(1, 3))
    assert names(layers) == ["first", "second", "head"]
    assert [layer.modules for layer in layers] == [
        (model.first, model.first_norm),
        (model.second, model.second_norm),
        (model.head,),
    ]
    assert layers[1].norms == (model.second_norm,)
    assert [layer.is_head for layer in layers] == [False, False, True]


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


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.output = nn.Linear(4, 7)
        self.output.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(self.body(self.embedding(ids)))


def test_tied_weights_are_one_layer_and_the_head_is_what_is_used_last():
    model = TiedLanguageModel()
    layers = find_layers(model)
    assert names(layers) == ["embedding", "body"]
    assert layers[0].modules == (model.embedding, model.output)
    assert layers[0].params == (model.embedding.weight, model.output.bias)
    assert [layer.is_head for layer in layers] == [True, False]


def test_tied_chain_is_one_layer():
    first, second, third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    third.bias = second.bias
    layers = find_layers(nn.Sequential(first, nn.ReLU(), second, third, nn.Linear(4, 2)))
    assert names(layers) == ["0", "4"]
    assert set(layers[0].modules) == {first, second, third}
    assert len(layers[0].params) == 4


def test_layer_used_many_times_is_one_layer():
    block = nn.Linear(4, 4)
    layers = find_layers(nn.Sequential(nn.Linear(3, 4), block, nn.ReLU(), block, nn.Linear(4, 2)))
    assert names(layers) == ["0", "1", "4"]


def test_bias_shared_with_its_parent_is_in_one_layer():
    """As in BertForMaskedLM, where the parent of the last linear layer also owns its bias."""

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))
            self.output = nn.Linear(4, 2)
            self.output.bias = self.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.output(x)

    model = nn.Sequential(nn.Linear(3, 4), Parent())
    first, last = find_layers(model)
    assert set(first.params) == set(model[0].parameters())
    assert set(last.params) == set(model[1].parameters())


class Attention(nn.Module):
    """A block with bare parameters of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.layer_scale = nn.Parameter(torch.ones(4))
        self.unused = nn.Parameter(torch.ones(4))
        self.patches = nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.class_token, self.patches(x)], dim=1) + self.position
        x = x + self.attention(x, x, x)[0] * self.layer_scale
        return self.head(x[:, 0])


def test_bare_parameters_join_the_layer_before_and_attention_is_one_layer():
    model = Attention()
    layers = find_layers(model, torch.zeros(1, 2, 3))
    assert layer_of(model, layers) == {
        "class_token": "patches",
        "position": "patches",
        "patches.weight": "patches",
        "patches.bias": "patches",
        "attention.in_proj_weight": "attention",
        "attention.in_proj_bias": "attention",
        "attention.out_proj.weight": "attention",
        "attention.out_proj.bias": "attention",
        "layer_scale": "attention",
        "head.weight": "head",
        "head.bias": "head",
    }


def test_pytorchs_transformer_has_each_norm_behind_its_weight():
    """Its fused version for inference uses all parameters in a single call."""
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    layers = find_layers(block, torch.zeros(1, 3, 4))
    assert names(layers) == ["self_attn", "linear1", "linear2"]
    assert [layer.norms for layer in layers] == [(block.norm1,), (), (block.norm2,)]


def test_parametrized_weights_belong_to_their_module():
    spectral = parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), spectral, nn.Linear(4, 2))
    layers = find_layers(model)
    assert names(layers) == ["0", "1", "2"]
    assert [len(layer.params) for layer in layers] == [3, 2, 2]
    assert layers[1].norms == (spectral.parametrizations.weight[0],)


def test_weights_frozen_beforehand_open_no_layer_but_keep_their_norm():
    """The norm of a frozen weight must not be grouped with the preceding layer."""
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Linear(2, 2)
    )
    model[1:3].requires_grad_(False)
    model[4].requires_grad_(False)
    layers = find_layers(model)
    assert [layer.modules for layer in layers] == [(model[0],), (model[3],)]
    assert layers[-1].is_head
    model[2].requires_grad_(True)
    assert names(find_layers(model)) == ["0", "1", "3"]


class LowRank(nn.Module):
    """A frozen layer with a trainable update of rank 1 (LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.down = nn.Linear(4, 1, bias=False)
        self.up = nn.Linear(1, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_low_rank_adapters_are_the_layers_of_a_frozen_model():
    layers = find_layers(nn.Sequential(LowRank(), LowRank()))
    assert names(layers) == ["0.down", "0.up", "1.down", "1.up"]


@every_architecture
def test_every_trainable_parameter_has_one_layer(architecture: Architecture):
    """The exceptions are GoogLeNet's auxiliary heads, which run in training mode only."""
    model = architecture.build()
    layers = find_layers(model, architecture.inputs())
    placed = [param for layer in layers for param in layer.parameters()]
    assert len(placed) == len(set(placed))
    left = [name for name, param in model.named_parameters() if param not in set(placed)]
    assert all(name.startswith(("aux1", "aux2")) for name in left)
    assert sum(layer.is_head for layer in layers) == 1
    assert all(layer.modules[0] is model.get_submodule(layer.name) for layer in layers)


@every_architecture
def test_guessed_inputs_find_the_same_layers(architecture: Architecture):
    model = architecture.build()
    assert names(find_layers(model)) == names(find_layers(model, architecture.inputs()))


@pytest.mark.parametrize(
    "name", ["torchvision googlenet", "timm efficientnet", "torch transformer"]
)
def test_finding_layers_leaves_the_model_as_it_was(name: str):
    model = ARCHITECTURES[name].build()
    for module in list(model.modules())[::2]:
        module.training = False
    before = copy.deepcopy(model.state_dict())
    training = [module.training for module in model.modules()]
    find_layers(model)
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)
    assert all(param.grad is None for param in model.parameters())


def test_a_model_that_draws_random_numbers_leaves_the_generator_alone():
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    model = Noisy(3, 2)
    random_state = torch.get_rng_state()
    find_layers(model)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_model_that_fails_on_its_inputs_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(5, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trace(model, torch.zeros(1, 3))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    "inputs", [torch.zeros(1, 3), (torch.zeros(1, 3),), {"x": torch.zeros(1, 3)}]
)
def test_inputs_can_be_a_tensor_a_tuple_or_a_mapping(inputs):
    assert names(find_layers(Backwards(), inputs)) == ["first", "second", "head"]


def test_inputs_that_cannot_be_guessed_are_asked_for():
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Bilinear(3, 4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.mix(x, y)

    with pytest.raises(ValueError, match="example_inputs"):
        find_layers(TwoInputs())
    assert names(find_layers(TwoInputs(), (torch.zeros(1, 3), torch.zeros(1, 4)))) == ["mix"]


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no layer to freeze"):
        find_layers(nn.Linear(3, 2).requires_grad_(False))


def test_compiled_models_have_the_names_of_the_model_inside():
    compiled = torch.compile(Backwards(), backend="eager")
    assert names(find_layers(compiled, torch.zeros(1, 3))) == ["first", "second", "head"]


def test_parameters_in_one_memory_are_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector, model.parameters())
    with pytest.raises(ValueError, match=r"'0' and '1' share their memory.*clone"):
        find_layers(model)
    for param in model.parameters():
        param.data = param.data.clone()
    assert [layer.name for layer in find_layers(model)] == ["0", "1"]


def test_the_error_names_what_was_tried_why_it_failed_and_what_to_write():
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(ValueError) as caught:
        find_layers(model)
    for part in ("float32 (1, 5, 64, 64)", "float32 (1, 144)", "shapes cannot be multiplied"):
        assert part in str(caught.value)
    assert "example_inputs=torch.zeros(1, 5, 64, 64)" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [layer.name for layer in find_layers(model, torch.zeros(1, 5, 8, 8))] == ["0", "2"]


def test_a_model_without_modules_to_guess_from_says_so():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 2))

        def forward(self, x):
            return x @ self.weight

    with pytest.raises(
        ValueError, match=r"Bare has no module to guess inputs from.*example_inputs"
    ):
        find_layers(Bare())
