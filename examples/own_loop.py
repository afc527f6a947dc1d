"""SmartFRZ in an ordinary PyTorch loop.

Trains a small convolutional network on images that it makes, and prints which layer froze at which
step. Needs no data, no network and no GPU:

    python examples/own_loop.py
"""

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from smartfrz import AttentionPredictor, Freezer, SmartFRZ

STEPS, CLASSES = 200, 10


def main() -> None:
    """Trains, and prints what froze when."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, STEPS)
    predictor = AttentionPredictor.from_pretrained()
    policy = SmartFRZ(predictor, interval=10, budget=0.7, total_steps=STEPS)
    freezer = Freezer(model, optimizer, policy)

    prototypes = torch.randn(CLASSES, 3, 12, 12)
    for step in range(STEPS):
        images, labels = batch(prototypes)
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        for layer in freezer.step():  # after backward, before optimizer.step()
            print(f"step {step:3}: froze layer {layer.name}, loss {loss.item():.3f}")
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    body = len(freezer.layers) - 1
    print(f"loss {loss.item():.3f}; {len(freezer.frozen)} of {body} layers are frozen")


def batch(prototypes: Tensor, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images, (size, 3, 12, 12): noisy copies of one prototype for each class; and labels."""
    labels = torch.randint(len(prototypes), (size,))
    return prototypes[labels] + 2 * torch.randn(size, *prototypes.shape[1:]), labels


if __name__ == "__main__":
    main()
