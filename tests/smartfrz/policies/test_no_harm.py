"""Small problems on which freezing early is fatal: SmartFRZ waits, or freezes nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from smartfrz import AttentionPredictor, Freezer, SmartFRZ, find_layers

Labels = Callable[[Tensor, int], Tensor]
STEPS = 600


def parity(inputs: Tensor, step: int) -> Tensor:
    return (inputs[:, :2] > 0).sum(dim=1) % 2


def sign(inputs: Tensor, step: int) -> Tensor:
    return (inputs[:, 0] > 0).long()


def noise_that_lasts(inputs: Tensor, step: int) -> Tensor:
    """A fifth of the labels is random, so that the loss has a floor."""
    flipped = torch.rand(len(inputs)) < 0.1
    return torch.where(flipped, 1 - sign(inputs, step), sign(inputs, step))


def noise_that_ends(inputs: Tensor, step: int) -> Tensor:
    """Random labels in the first third of the run."""
    return torch.randint(0, 2, (len(inputs),)) if step < STEPS // 3 else sign(inputs, step)


def curriculum(inputs: Tensor, step: int) -> Tensor:
    """The easy task comes first."""
    return sign(inputs, step) if step < STEPS // 3 else parity(inputs, step)


def mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    )


class Words(nn.Module):
    """An embedding whose rows are rare, which trains far more slowly than what is behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(400, 8)
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        ids = (inputs.abs() * 1000).long() % 400
        return self.head(self.body(self.embedding(ids).mean(dim=1)).tanh())


def of_words(inputs: Tensor, step: int) -> Tensor:
    return ((inputs.abs() * 1000).long() % 2).sum(dim=1).ge(4).long()


def stem_needed_later(inputs: Tensor, step: int) -> Tensor:
    """Labels of one half of the inputs at first, which the stem then has to unlearn."""
    part = inputs[:, :4] if step < STEPS // 2 else inputs[:, 4:]
    return ((part[:, :2] > 0).sum(dim=1) % 2).long()


@dataclass(frozen=True)
class Problem:
    labels: Labels = parity
    lr: Callable[[int], float] = lambda step: 0.1
    model: Callable[[], nn.Module] = mlp
    optimizer: Callable[..., Optimizer] = lambda params: SGD(params, 0.1, momentum=0.9)
    interval: int = 15
    scale: float | None = None
    skipped: range = range(0)


PROBLEMS = {
    "plateau at the start": Problem(lr=lambda step: 0.02),
    "warmup from zero": Problem(lr=lambda step: 0.1 * min(1.0, step / 200)),
    "constant rate": Problem(),
    "warm restarts": Problem(lr=lambda step: 0.05 * (1 + math.cos(math.pi * (step % 150) / 150))),
    "skipped steps": Problem(scale=1.0, skipped=range(100)),
    "label noise that ends": Problem(noise_that_ends),
    "curriculum": Problem(curriculum),
    "loss scaling": Problem(scale=2.0**12),
    "tiny interval": Problem(interval=1),
    "huge interval": Problem(interval=100),
    "an untrained embedding": Problem(
        of_words, lambda step: 1e-2, Words, lambda params: AdamW(params, 1e-2)
    ),
    "a stem needed later": Problem(stem_needed_later),
}


def train(
    problem: Problem, freezes: bool, threshold: float = 0.3, guard: bool = True, seed: int = 0
) -> tuple[float, dict[str, int]]:
    """Returns the mean loss of the last 30 steps, and what was frozen."""
    torch.manual_seed(3 * seed)
    model = problem.model()
    optimizer = problem.optimizer(model.parameters())
    policy: Any = None
    if freezes:
        predictor = AttentionPredictor.from_pretrained()
        policy = SmartFRZ(predictor, problem.interval, threshold=threshold, guard=guard)
    data = torch.randn(512, 8, generator=torch.Generator().manual_seed(3 * seed))
    freezer = Freezer(model, optimizer, policy, find_layers(model, data[:1]))
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=problem.scale or 1.0, enabled=bool(problem.scale)
    )
    drawn, losses = torch.Generator().manual_seed(3 * seed + 1), []
    torch.manual_seed(3 * seed + 2)  # for random labels
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = problem.lr(step)
        inputs = data[torch.randint(512, (64,), generator=drawn)]
        loss = nn.functional.cross_entropy(model(inputs), problem.labels(inputs, step))
        scaler.scale(loss * (math.inf if step in problem.skipped else 1.0)).backward()
        freezer.step()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-30:]) / 30, freezer.frozen


QUICK = ("plateau at the start", "warm restarts", "curriculum")


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param(name, seed, marks=[] if name in QUICK and seed == 0 else [pytest.mark.slow])
        for name in PROBLEMS
        for seed in range(8)
    ],
)
def test_the_final_loss_is_that_of_full_training_or_nothing_was_frozen(
    name: str, seed: int
) -> None:
    full, _ = train(PROBLEMS[name], freezes=False, seed=seed)
    loss, frozen = train(PROBLEMS[name], freezes=True, seed=seed)
    assert not frozen or loss <= 1.1 * full


def test_layers_freeze_where_the_loss_no_longer_falls() -> None:
    problem = Problem(noise_that_lasts, lr=lambda step: 3e-3)
    full, _ = train(problem, freezes=False)
    loss, frozen = train(problem, freezes=True)
    assert frozen
    assert loss <= 1.1 * full


def test_a_change_of_the_task_thaws_what_was_frozen() -> None:
    """Frozen early, the easy task's layers cannot learn the harder one."""
    problem = PROBLEMS["curriculum"]
    loss, _ = train(problem, freezes=True, threshold=0.05)
    assert loss < 0.1
    unguarded, _ = train(problem, freezes=True, threshold=0.05, guard=False)
    assert unguarded > 0.3
