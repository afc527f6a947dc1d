"""Memory that freezing saves in a timm model, within a budget of compute.

Trains a ResNet with random weights until a budget of compute is spent, freezes everything between
stem and head on the way, and prints the activations that a forward pass keeps for its backward
pass. Needs timm, no data, no network and no GPU:

    python examples/timm_memory.py
"""

import math
from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from smartfrz import (
    ComputeBudget,
    Freezer,
    Layer,
    fold_batch_norms,
    restore_memory,
    save_memory,
    unfold_batch_norms,
)
from smartfrz.memory import activation_bytes

FULL_STEPS = 8


class BetweenStemAndHead:
    """Policy: freezes all layers but the first and the head, at one step.

    The policies that freeze from the front keep no activations below the first layer that trains;
    frozen layers above it are where `save_memory` pays.
    """

    def __init__(self, at: int) -> None:
        self.at = at

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers to freeze at this step."""
        return [layer for layer in active[1:] if not layer.is_head] if step == self.at else []


def main() -> None:
    """Trains, and prints the memory before and after."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(10, (4,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    report("everything trains", model, images)

    fold_batch_norms(model, images)  # both calls once, before training
    save_memory(model)
    freezer = Freezer(model, optimizer, BetweenStemAndHead(at=2))
    budget = ComputeBudget(freezer, steps=0.6 * FULL_STEPS)  # in steps with nothing frozen
    scheduler = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * budget.spent)))
    steps = 0
    while not budget.is_spent:
        nn.functional.cross_entropy(model(images), labels).backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
        budget.step()
        scheduler.step()
        steps += 1
    print(f"{steps} steps for the compute of {budget.steps:g} with nothing frozen")

    report("frozen, with save_memory and fold_batch_norms", model, images)
    restore_memory(model)
    unfold_batch_norms(model)
    report("frozen, as PyTorch keeps it", model, images)


def report(title: str, model: nn.Module, images: Tensor) -> None:
    """Prints the bytes that a forward pass leaves for the backward pass."""
    known = [*model.parameters(), *model.buffers(), images]
    print(f"{title}: {activation_bytes(lambda: model(images), known):,} bytes of activations")


if __name__ == "__main__":
    main()
