"""Tests of parameters that the traced pass does not use: experts, and the warning about others."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from smartfrz import ComputeBudget, Freezer, find_layers
from smartfrz.cost import forward_macs, training_flops
from smartfrz.graph import trace
from tests.helpers.architectures import gpt2
from tests.helpers.scripted import Scripted


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(self.norm(x)).relu()) * self.scale


class Mixture(nn.Module):
    """Top-1 routing: the first feature of a sample is the number of its expert."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.experts = nn.ModuleList([Expert() for _ in range(count)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        route, x = x[:, 0].long(), self.stem(x)
        out = torch.zeros_like(x)
        for number in route.unique().tolist():
            out[route == number] = self.experts[number](x[route == number])
        return self.head(x + out)


def routed_to(*experts: int) -> Tensor:
    return torch.tensor([[float(expert), 0.0, 0.0, 0.0] for expert in experts])


def test_experts_that_were_not_used_are_layers_behind_those_that_were():
    model = Mixture()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layers = find_layers(model, routed_to(1, 2))
    order = [1, 2, 0, 3]
    experts = [f"experts.{i}.{name}" for i in order for name in ("up", "down")]
    assert [layer.name for layer in layers] == ["stem", *experts, "head"]
    assert [layer.is_head for layer in layers] == [False] * 9 + [True]
    assert sum(len(layer.params) for layer in layers) == len(list(model.parameters()))
    for i in (0, 3):
        layer = next(each for each in layers if each.name == f"experts.{i}.down")
        assert layer.modules == (model.experts[i].down,)
        assert layer.params == (*model.experts[i].down.parameters(), model.experts[i].scale)


@pytest.mark.parametrize("routes", [(0,), (2, 3), (0, 1, 2, 3)])
def test_the_layers_do_not_depend_on_the_routes_except_in_order(routes: tuple[int, ...]):
    model = Mixture()
    layers = find_layers(model, routed_to(*routes))
    names = {f"experts.{i}.{name}" for i in range(4) for name in ("up", "down")}
    assert {layer.name for layer in layers} == names | {"stem", "head"}
    placed = [param for layer in layers for param in layer.params]
    assert len(placed) == len(set(placed)) == len(list(model.parameters()))


def test_a_frozen_expert_that_was_not_used_stays_as_it_is():
    model = Mixture()
    layers = find_layers(model, routed_to(1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    freezer = Freezer(model, optimizer, Scripted({1: ["experts.3.up", "experts.3.down"]}), layers)
    before = None
    for _ in range(4):
        model(routed_to(0, 1, 2, 3)).sum().backward()
        frozen = freezer.step()
        before = before or (frozen and [p.clone() for layer in frozen for p in layer.params])
        optimizer.step()
        optimizer.zero_grad()
    after = [p for layer in layers if "experts.3" in layer.name for p in layer.params]
    assert before and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_costs_of_experts_do_not_depend_on_where_the_traced_samples_went():
    model = Mixture()
    of_experts = [[*expert.parameters()] for expert in model.experts]
    rest = [*model.stem.parameters(), *model.head.parameters()]
    balanced = trace(model, routed_to(0, 1, 2, 3))
    for routes in ((1, 1, 1, 1), (0, 2, 2, 2)):
        calls = trace(model, routed_to(*routes))
        assert forward_macs(calls) == forward_macs(balanced)
        for trained in range(5):
            params = [*rest, *(param for expert in of_experts[:trained] for param in expert)]
            assert training_flops(calls, params) == training_flops(balanced, params)


def test_a_budget_counts_experts_that_were_not_used():
    model = Mixture()
    layers = find_layers(model, routed_to(1))
    freezer = Freezer(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        Scripted({0: ["experts.0.up", "experts.0.down"]}),
        layers,
    )
    budget = ComputeBudget(freezer, 10, routed_to(1, 1, 1, 1))
    for _ in range(2):
        freezer.step()
        budget.step()
    macs = 16 + 64 + 8  # of the stem, an expert and the head, for one sample
    weight_gradients_of_one_expert_in_four = 64 / 4
    cost = (3 * macs - weight_gradients_of_one_expert_in_four) / (3 * macs)
    assert 10 * budget.spent == pytest.approx(1 + cost)


def test_heads_of_tasks_that_were_not_traced_are_heads():
    class Tasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.heads = nn.ModuleDict({name: nn.Linear(4, 2) for name in "abc"})

        def forward(self, x: Tensor, task: str = "b") -> Tensor:
            return self.heads[task](self.body(x))

    layers = find_layers(Tasks(), torch.zeros(1, 4))
    heads = [layer.name for layer in layers if layer.is_head]
    assert heads == ["heads.b", "heads.a", "heads.c"]


def test_switch_transformer():
    from transformers import (
        SwitchTransformersConfig,
        SwitchTransformersForConditionalGeneration,
    )

    config = SwitchTransformersConfig(
        vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_decoder_layers=2,
        num_heads=2, num_experts=8, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1,
    )  # fmt: skip
    model = SwitchTransformersForConditionalGeneration(config)
    ids = torch.ones(1, 3, dtype=torch.long)
    layers = find_layers(model, {"input_ids": ids, "decoder_input_ids": ids})
    assert {param for layer in layers for param in layer.params} == {*model.parameters()}


def test_grouped_products_of_experts_are_counted():
    """Mixtral stores its experts in one parameter and multiplies them in one operator."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    calls = trace(model, {"input_ids": torch.ones(1, 3, dtype=torch.long)})
    attention, scores, router = 4 * 16 * 16, 2 * 3 * 16, 16 * 4
    expert, head = 3 * 16 * 32, 16 * 30
    assert forward_macs(calls) == 3 * (attention + scores + router + expert + head)


class Auxiliary(nn.Module):
    """Has a classifier that runs in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.aux = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.body(x)
        return (self.head(x), self.aux(x) + self.shift) if self.training else self.head(x)


def test_parameters_that_run_in_training_mode_only_are_named_with_their_share():
    model = Auxiliary()
    with pytest.warns(UserWarning, match=r"^57\.1% .* does not use them: shift, aux\.") as caught:
        layers = find_layers(model, torch.zeros(1, 4))
    assert len(caught) == 1 and caught[0].filename == __file__
    assert [layer.name for layer in layers] == ["body", "head"]


def test_blocks_that_are_left_out_at_the_end_are_no_experts():
    class Truncated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks[:2]:
                x = block(x)
            return x

    with pytest.warns(UserWarning, match=r"50\.0% .* blocks\.2, blocks\.3\."):
        layers = find_layers(Truncated(), torch.zeros(1, 4))
    assert [layer.name for layer in layers] == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_said_where_nothing_is_left_out(frozen: bool):
    model = Auxiliary() if frozen else gpt2()
    inputs = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    if frozen:
        model.aux.requires_grad_(False)
        model.shift.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        find_layers(model, torch.zeros(1, 4) if frozen else inputs)
