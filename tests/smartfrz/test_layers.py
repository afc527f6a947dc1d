"""Tests of layer discovery: execution order, grouping, and each parameter at most once."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from smartfrz import find_layers
from smartfrz.graph.tracing import trace
from tests.helpers.architectures import ARCHITECTURES, Architecture
from tests.helpers.layers import Backwards, layer_of, names

every_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)


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
