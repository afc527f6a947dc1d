"""SmartFRZ in the Trainer of Lightning.

Trains a small convolutional network on images that it makes with a budget of 0.7 of full training's
compute, and prints when its layers froze. Needs ``pip install 'smartfrz[lightning]'``, no data, no
network and no GPU:

    python examples/lightning_module.py
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from smartfrz.integrations.lightning import SmartFRZCallback

STEPS, CLASSES, BATCH = 120, 10, 32


class Classifier(LightningModule):
    """A convolutional network, trained with SGD and a cosine schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
        )

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Returns the loss; the layers that freeze are those of ``self.net``."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> dict[str, object]:
        """Returns the optimizer and its schedule."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = {"scheduler": CosineAnnealingLR(optimizer, STEPS), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def main() -> None:
    """Trains, and prints a table of the layers."""
    seed_everything(0)
    callback = SmartFRZCallback(budget=0.7)
    trainer = Trainer(
        max_steps=STEPS, callbacks=[callback], logger=False, enable_checkpointing=False
    )
    trainer.fit(Classifier(), DataLoader(images(), batch_size=BATCH))
    print(callback.freezer)


def images() -> TensorDataset:
    """Noisy copies of one prototype for each class."""
    prototypes = torch.randn(CLASSES, 3, 12, 12)
    labels = torch.randint(CLASSES, (STEPS * BATCH,))
    return TensorDataset(prototypes[labels] + 2 * torch.randn(len(labels), 3, 12, 12), labels)


if __name__ == "__main__":
    main()
