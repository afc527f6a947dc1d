"""A freezing policy of one's own: any object with `layers_to_freeze`.

Freezes a layer once the norm of its gradient has stayed small for some steps in a row, from the
front of the network to its back. Needs no data, no network and no GPU:

    python examples/own_policy.py
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from smartfrz import Freezer, Layer


class SmallGradients:
    """Policy: freezes the first layer that still trains once its gradient is small.

    Args:
        share: of the gradient's norm at the layer's first step, below which it is small.
        patience: steps in a row for which it has to stay small.
    """

    def __init__(self, share: float, patience: int) -> None:
        self.share, self.patience = share, patience
        self.first: dict[str, float] = {}
        self.small_steps = 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Called by `Freezer.step` with the layers that still train, the head included."""
        norms = {layer.name: gradient_norm(layer) for layer in active}
        self.first = norms | self.first
        front = active[0]
        is_small = norms[front.name] < self.share * self.first[front.name]
        self.small_steps = self.small_steps + 1 if is_small else 0
        if front.is_head or self.small_steps < self.patience:
            return []
        self.small_steps = 0
        return [front]

    # A policy with state has these two, for `Freezer.state_dict` and `Freezer.load_state_dict`.
    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs."""
        return {"first": dict(self.first), "small_steps": self.small_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.first, self.small_steps = dict(state["first"]), state["small_steps"]


def gradient_norm(layer: Layer) -> float:
    """The Euclidean norm of the gradient of all parameters of a layer."""
    norms = [param.grad.norm() for param in layer.parameters() if param.grad is not None]
    return torch.stack(norms).norm().item()


def main() -> None:
    """Trains, and prints what froze when."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(16, 64), nn.LayerNorm(64), nn.ReLU()),
        *(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()),
        nn.Linear(64, 4),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    freezer = Freezer(model, optimizer, SmallGradients(share=0.2, patience=5))
    centres = torch.randn(4, 16)
    for step in range(200):
        labels = torch.randint(4, (64,))
        inputs = centres[labels] + 0.5 * torch.randn(64, 16)
        nn.functional.cross_entropy(model(inputs), labels).backward()
        for layer in freezer.step():
            print(f"step {step:3}: froze layer {layer.name}")
        optimizer.step()
        optimizer.zero_grad()
    left = [layer.name for layer in freezer.layers if layer.name not in freezer.frozen]
    print(f"still training: {', '.join(left)}")


if __name__ == "__main__":
    main()
