"""A small convolutional network that counts its forward passes, and a freezer for it."""

from typing import Any

import torch
from torch import Tensor, nn

from smartfrz import Freezer
from tests.helpers.scripted import Scripted

BATCH = [0, 1, 2, 3]


class Net(nn.Module):
    """Two convolutions with norms, dropout between them, and a count of the images in each."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.images = {"first": 0, "second": 0}
        for name in self.images:
            self.get_submodule(name)[0].register_forward_hook(
                lambda module, args, output, name=name: self.count(name, args[0])
            )

    def count(self, name: str, x: Tensor) -> None:
        self.images[name] += len(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.dropout(self.first(x))).mean((2, 3)))


class Deeper(Net):
    """The same with a third convolution, of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x))).mean((2, 3)))


def images(count: int = 12) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def frozen(model: nn.Module, names: list[str], **layers: Any) -> Freezer:
    """A freezer that has frozen the layers ``names``; ``layers`` are arguments of `Freezer`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: names}), **layers)
    freezer.step()
    return freezer


def seen(model: Net, name: str = "first") -> int:
    """Number of images in a convolution's forward passes since the last call."""
    count, model.images[name] = model.images[name], 0
    return count
