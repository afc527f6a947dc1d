"""Networks and batches of the benchmarks, and the layers frozen in them."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from experiments.models.registry import build_model
from smartfrz import Layer, find_layers
from smartfrz.cost import training_flops
from smartfrz.graph import Call, trace

MODELS = ("resnet50", "vgg11", "mobilenet_v2", "deit_tiny", "bert_base")
LAYOUTS = ("prefix", "scattered")


@dataclass
class Workload:
    """A network, a batch for it, and its layers.

    Attributes:
        name: name of the network.
        model: the network, in train mode, with random weights.
        inputs: a batch.
        amp: whether the forward pass runs under bf16 autocast.
        layers: layers in execution order, including the head.
        calls: traced calls of a forward pass.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    amp: bool
    layers: list[Layer]
    calls: list[Call]

    def loss(self) -> Tensor:
        """Computes a scalar loss of a forward pass."""
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.amp):
            output = self.model(self.inputs)
        return getattr(output, "logits", output).float().square().mean()

    def freeze(self, layers: Sequence[Layer]) -> None:
        """Freezes layers as a ``Freezer`` does, and thaws all others."""
        self.model.train()
        for layer in self.layers:
            for param in layer.params:
                param.requires_grad_(layer not in layers)
                param.grad = None
            for norm in layer.norms:
                norm.train(layer not in layers)

    def flops(self, frozen: Sequence[Layer]) -> int:
        """Computes the FLOPs of a step with frozen layers."""
        params = {param for layer in frozen for param in layer.params}
        return training_flops(self.calls, [p for p in self.model.parameters() if p not in params])

    def forward_macs(self, layer: Layer) -> int:
        """Computes the multiply-accumulates of a layer's weights in a forward pass."""
        params = set(layer.params)
        return sum(
            product.macs
            for each in self.calls
            for product in each.products
            if any(source in params for operand in product.operands for source in operand)
        )

    @property
    def body(self) -> list[Layer]:
        """All layers but the head."""
        return [layer for layer in self.layers if not layer.is_head]

    def front(self, fraction: float) -> list[Layer]:
        """Returns a fraction of the layers without the head, the first ones."""
        return self.body[: math.ceil(fraction * len(self.body))]

    def random_half(self, seed: int) -> list[Layer]:
        """Returns a random half of the layers without the head, in random order."""
        return random.Random(seed).sample(self.body, len(self.body) // 2)

    def chosen(self, layout: str, fraction: float, seed: int = 0) -> list[Layer]:
        """Returns layers with about a fraction of the forward FLOPs: the first, or random ones."""
        body = self.body
        if layout == "scattered":
            random.Random(seed).shuffle(body)
        sizes = [self.forward_macs(layer) for layer in body]
        chosen, size = [], 0
        for layer, own in zip(body, sizes, strict=True):
            if size + own / 2 > fraction * sum(sizes):
                break
            chosen.append(layer)
            size += own
        return chosen


def make_workload(
    name: str, batch_size: int, size: int, channels_last: bool = False, amp: bool = False
) -> Workload:
    """Builds a network with random weights and a batch for it, on the GPU if there is one.

    Args:
        name: one of `MODELS`.
        batch_size: number of images or sentences in the batch.
        size: side of the images in pixels, or length of the sentences in tokens.
        channels_last: whether weights and images have the memory format ``channels_last``.
        amp: whether the forward pass runs under bf16 autocast.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if name == "bert_base":
        model: nn.Module = BertForSequenceClassification(BertConfig())
        inputs = torch.randint(1, 30_000, (batch_size, size))
    else:
        model = build_model(name, 10, size)
        inputs = torch.randn(batch_size, 3, size, size)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            inputs = inputs.contiguous(memory_format=torch.channels_last)
    model.to(device).train()
    inputs = inputs.to(device)
    return Workload(name, model, inputs, amp, find_layers(model, inputs), trace(model, inputs))


def as_in_table_2(name: str, batch_size: int = 32) -> Workload:
    """Builds a workload as at ``SCALE=small``; on a GPU with the paper's input size, in bf16.

    Args:
        name: one of `MODELS`; BERT-base takes sentences, on the CPU shorter ones and a 16th of the
            batch size.
        batch_size: the paper's 32 does not fill a large GPU.
    """
    if torch.cuda.is_available():
        size = 128 if name == "bert_base" else 224
        return make_workload(name, batch_size, size, channels_last=True, amp=True)
    if name == "bert_base":
        return make_workload(name, batch_size // 16, size=32)
    return make_workload(name, batch_size, 32, channels_last=True, amp=name != "mobilenet_v2")
