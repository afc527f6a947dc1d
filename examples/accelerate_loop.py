"""A loop with Accelerate, stopped and resumed.

Trains a small network with gradient accumulation and a budget of 0.7 of full training's compute.
Half way, the run is saved and goes on in a new model. Needs ``pip install accelerate``, no data, no
network and no GPU; with several processes, ``accelerate launch`` starts it:

    python examples/accelerate_loop.py
"""

from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from smartfrz import AttentionPredictor, Freezer, SmartFRZ

STEPS, ACCUMULATED, CLASSES, WIDTH = 60, 2, 4, 16


class Run:
    """What a run consists of, prepared by Accelerate."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        torch.manual_seed(0)
        body = [part for _ in range(4) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        model = nn.Sequential(*body, nn.Linear(WIDTH, CLASSES))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        loader = DataLoader(points(), batch_size=8)
        self.model, self.optimizer, self.loader = accelerator.prepare(model, optimizer, loader)
        predictor = AttentionPredictor.from_pretrained()
        # Steps of the optimizer, not batches.
        policy = SmartFRZ(predictor, interval=2, budget=0.7, total_steps=STEPS)
        self.freezer = Freezer(self.model, self.optimizer, policy)
        accelerator.register_for_checkpointing(self.freezer)

    def train(self, steps: int) -> None:
        """Trains up to a step, and prints what freezes."""
        done = self.freezer.steps * ACCUMULATED
        for x, y in self.accelerator.skip_first_batches(self.loader, done):
            if self.freezer.steps == steps:
                return
            with self.accelerator.accumulate(self.model):
                loss = nn.functional.cross_entropy(self.model(x), y)
                self.accelerator.backward(loss)
                step = self.freezer.steps
                for layer in self.freezer.step():  # has no effect but in the last batch of a step
                    self.accelerator.print(f"step {step}: froze layer {layer.name}")
                self.optimizer.step()
                self.optimizer.zero_grad()


def main() -> None:
    """Trains, saves, resumes, and prints how much compute was spent."""
    first = Run(Accelerator(gradient_accumulation_steps=ACCUMULATED))
    first.train(STEPS // 2)
    with TemporaryDirectory() as folder:
        first.accelerator.save_state(folder)
        first.accelerator.print(f"saved at step {first.freezer.steps}")
        again = Run(Accelerator(gradient_accumulation_steps=ACCUMULATED))
        again.accelerator.load_state(folder)
    again.train(STEPS)
    spent = again.freezer.compute_spent / again.freezer.steps
    again.accelerator.print(f"{len(again.freezer.frozen)} layers are frozen")
    again.accelerator.print(f"compute: {spent:.2f} of full training's")


def points() -> TensorDataset:
    """Points around the centres of their classes."""
    seeded = torch.Generator().manual_seed(1)
    centres = torch.randn(CLASSES, WIDTH, generator=seeded)
    labels = torch.randint(CLASSES, (STEPS * ACCUMULATED * 8,), generator=seeded)
    return TensorDataset(
        centres[labels] + torch.randn(len(labels), WIDTH, generator=seeded), labels
    )


if __name__ == "__main__":
    main()
