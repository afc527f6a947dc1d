"""Tests of layers with adapters: each is one layer, frozen with its adapters."""

from collections.abc import Callable

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import IA3Config, LoHaConfig, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import BertConfig, BertForSequenceClassification

from smartfrz import Freezer, find_layers
from tests.helpers.scripted import Scripted

ADAPTED = ("query", "value", "intermediate.dense")
CONFIGS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: LoraConfig(r=2, target_modules=[*ADAPTED]),
    "dora": lambda: LoraConfig(r=2, target_modules=[*ADAPTED], use_dora=True),
    "loha": lambda: LoHaConfig(r=2, target_modules=[*ADAPTED]),
    "ia3": lambda: IA3Config(target_modules=[*ADAPTED], feedforward_modules=["intermediate.dense"]),
}


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=64,  # bitsandbytes needs multiples of 64
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    return BertForSequenceClassification(config)


def bert_in_4_bits() -> nn.Module:
    """As for QLoRA: the weights of all linear layers are quantised by bitsandbytes."""
    model = bert()
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if type(part) is nn.Linear and name != "classifier":
                quantised = Linear4bit(part.in_features, part.out_features)
                quantised.load_state_dict(part.state_dict())
                setattr(module, name, quantised.to("cpu"))  # quantises
    assert (
        model.get_parameter("bert.encoder.layer.0.intermediate.dense.weight").dtype == torch.uint8
    )
    return model


@pytest.mark.parametrize(
    ("kind", "base"), [*((kind, bert) for kind in CONFIGS), ("lora", bert_in_4_bits)]
)
def test_adapters_freeze_together_and_with_nothing_else(kind: str, base: Callable[[], nn.Module]):
    model = get_peft_model(base(), CONFIGS[kind]())  # type: ignore[arg-type]
    ids = {"input_ids": torch.randint(0, 30, (2, 6))}
    layers = find_layers(model, ids)
    ends = ("attention.self.query", "attention.self.value", "intermediate.dense")
    expected = [f"encoder.layer.{block}.{end}" for block in (0, 1) for end in ends]
    assert [layer.name.partition("bert.")[2] for layer in layers] == expected
    trainable = {param for param in model.parameters() if param.requires_grad}
    assert {param for layer in layers for param in layer.params} == trainable
    assert [layer.is_head for layer in layers] == [False] * 5 + [True]

    optimizer = AdamW(trainable, lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({1: [layers[0].name]}), layers)
    frozen: dict[str, Tensor] = {}
    for _ in range(3):
        model(**ids).logits.square().mean().backward()
        if freezer.step():
            frozen = {name: p.clone() for name, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, frozen[n])}
    ours = {n for n, p in model.named_parameters() if any(p is each for each in layers[0].params)}
    assert ours and not ours & moved
    assert len(moved) >= len(trainable) - len(ours) - len(layers)  # some halves start with zeros


class LoRALinear(nn.Module):
    """As in torchtune: the weight and the two halves in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4), requires_grad=False)
        self.lora_a, self.lora_b = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight) + self.lora_b(self.lora_a(x))


def test_the_adapters_of_torchtune():
    model = nn.Sequential(LoRALinear(), nn.ReLU(), LoRALinear(), nn.Linear(4, 2))
    layers = find_layers(model, torch.zeros(1, 4))
    assert [layer.name for layer in layers] == ["0", "2", "3"]
    assert [len(layer.params) for layer in layers] == [2, 2, 2]
