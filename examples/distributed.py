"""Freezing in several processes: rank 0 decides, all ranks freeze the same layers.

Trains a small network with DistributedDataParallel, each process on data of its own, and prints
what every rank has frozen. On the CPU with gloo; needs no data, no network and no GPU:

    torchrun --standalone --nproc-per-node 2 examples/distributed.py
"""

import gc

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smartfrz import AttentionPredictor, Freezer, SmartFRZ

STEPS = 60


def main() -> None:
    """Trains in this process, and prints on rank 0 what each rank has frozen."""
    dist.init_process_group("gloo")
    frozen = train()
    frozen_by_rank: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(frozen_by_rank, frozen)
    if dist.get_rank() == 0:
        for rank, layers in enumerate(frozen_by_rank):
            print(f"rank {rank}, layer and the step at which it froze: {layers}")
    dist.barrier()
    # A process may abort at its end if a DDP model still refers to the group (pytorch#190489).
    gc.collect()
    dist.destroy_process_group()


def train() -> dict[str, int]:
    """Trains, and returns the step at which each layer froze."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(16, 64), nn.ReLU()),
        *(nn.Linear(64, 64), nn.ReLU()),
        nn.Linear(64, 4),
    )
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    predictor = AttentionPredictor.from_pretrained()
    policy = SmartFRZ(predictor, interval=5, budget=0.7, total_steps=STEPS)
    freezer = Freezer(wrapped, optimizer, policy)

    centres = torch.randn(4, 16)
    torch.manual_seed(1 + dist.get_rank())
    for _ in range(STEPS):
        labels = torch.randint(4, (32,))
        inputs = centres[labels] + 0.5 * torch.randn(32, 16)
        nn.functional.cross_entropy(wrapped(inputs), labels).backward()
        freezer.step()  # on every rank, after backward
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return freezer.frozen


if __name__ == "__main__":
    main()
