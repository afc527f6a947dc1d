"""Set-up of a run: device, model, optimizer, freezer and batches."""

import gc
import math
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_map

from experiments.config import RunConfig
from experiments.data.batches import Batches
from experiments.data.registry import dataset, make_batches
from experiments.methods import METHODS, Setting
from experiments.models.pretraining import load_pretrained
from experiments.models.registry import build_model, network
from experiments.runs.backward import make_backward
from experiments.runs.optimization import make_optimizer, make_scheduler
from smartfrz import (
    ComputeBudget,
    FeatureCache,
    Freezer,
    Gathered,
    Policy,
    find_layers,
    fold_batch_norms,
)
from smartfrz.cost import training_flops
from smartfrz.distributed import gathered, unwrap, world_size
from smartfrz.graph import Call, Inputs, call, trace


@dataclass
class Run:
    """The state of a run in progress.

    The run ends after ``total_steps`` steps or, with a ``budget``, when that is spent. ``loss`` is
    the loss of the last step.
    """

    config: RunConfig
    device: torch.device
    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR | None
    scaler: torch.amp.GradScaler
    freezer: Freezer
    batches: Batches
    total_steps: int
    budget: ComputeBudget | None
    calls: list[Call]
    pretrained: dict[str, str]
    metrics: tuple[str, ...]
    loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    flops_per_step: int = 0
    flops_per_step_paper: int = 0

    def __post_init__(self) -> None:
        self.full_flops_per_step = self._flops(as_in_paper=False)
        self.full_flops_per_step_paper = self._flops(as_in_paper=True)
        self.count_flops()

        self.features = (
            FeatureCache(self.freezer, dropout="eval") if self.config.feature_cache else None
        )
        self.backward = make_backward(self)

    def forward(self, inputs: Inputs, keys: Tensor) -> Tensor:
        """Computes the model's output for a batch.

        Args:
            inputs: arguments of the model.
            keys: indices of the examples, (B,), the keys of the feature cache.
        """
        if self.features is None:
            return call(self.model, inputs)
        if isinstance(inputs, Mapping):
            return self.features(keys, **inputs)
        return self.features(keys, inputs)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return not dist.is_initialized() or dist.get_rank() == 0

    def autocast(self) -> AbstractContextManager:
        """The autocast context of the config's ``amp``."""
        dtype = torch.float16 if self.config.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.amp != "none")

    def clock(self) -> float:
        """The time in seconds, after the device has completed all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def count_flops(self) -> None:
        """Updates the FLOPs of a step; called after layers were frozen or thawed."""
        self.flops_per_step = self._flops(as_in_paper=False)
        self.flops_per_step_paper = self._flops(as_in_paper=True)

    def progress(self, step: int) -> float:
        """Fraction of the run that is complete after a number of steps, or of its budget."""
        return self.budget.spent if self.budget else step / self.total_steps

    def is_over(self, step: int) -> bool:
        """Whether the run ends after this number of steps."""
        return self.budget.is_spent if self.budget else step == self.total_steps

    def mean_over_processes(self, values: list[Tensor]) -> float:
        """The mean of scalar tensors over all processes."""
        mean = torch.stack(values).mean() / world_size()
        if dist.is_initialized():
            dist.all_reduce(mean)
        return mean.item()

    def _flops(self, as_in_paper: bool) -> int:
        trains = [param for param in self.model.parameters() if param.requires_grad]
        return self.config.batch_size * training_flops(self.calls, trains, as_in_paper)

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the next step, of all processes, see `prepare`.

        It must be called by all processes.
        """
        rngs = gathered([torch.get_rng_state(), *self._gpu_rng()])
        return {**self.own_state(), "rngs": rngs}

    def own_state(self) -> dict[str, Any]:
        """The part of the state that is the same in all processes."""
        return {
            "model": unwrap(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else {},
            "scaler": self.scaler.state_dict(),
            "freezer": self.freezer.state_dict(),
            "budget": self.budget.state_dict() if self.budget else {},
        }

    def _gpu_rng(self) -> list[Tensor]:
        return [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved state; the number of processes must be the same as when it was saved."""
        unwrap(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.freezer.load_state_dict(state["freezer"])
        if self.budget:
            self.budget.load_state_dict(state["budget"])
        rank = dist.get_rank() if dist.is_initialized() else 0
        own, *gpu = (each.cpu() for each in state["rngs"][rank])
        torch.set_rng_state(own)
        if gpu:
            torch.cuda.set_rng_state(gpu[0], self.device)
        self.count_flops()


def prepare(config: RunConfig) -> Run:
    """Builds a run from its config, which determines the outcome.

    It does so bit for bit on a CPU with a given number of threads, and on a GPU up to the rounding
    of kernels that add in no fixed order.
    """
    device, rank, processes = device_and_rank()
    if device.type == "cuda":
        gc.collect()  # an earlier run's model is a reference cycle; it would add to the peak memory
    normalisation = network(config.model).normalisation
    batches = make_batches(config, device, rank, processes, normalisation)
    torch.manual_seed(config.seed)
    model = build_model(config.model, batches.num_classes, config.image_size)
    example = batches.example()
    layers = find_layers(model, example)
    heads = [layer.name for layer in layers if layer.is_head]
    pretrained = load_pretrained(config, model, heads) if config.pretraining else {}
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    example = tree_map(lambda tensor: tensor.to(device), example)
    total_steps = max(1, round(config.epochs * batches.steps_per_epoch))
    optimizer = make_optimizer(config, model, layers)
    fold_batch_norms(model, example)
    if device.type == "cpu" and config.amp == "none" and not config.compile:
        from experiments.models.depthwise import speed_up_depthwise  # imports timm: seconds

        speed_up_depthwise(model)
    wrapped: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
    if processes > 1:
        wrapped = DistributedDataParallel(wrapped, [device] if device.type == "cuda" else None)
    setting = Setting(config, wrapped, optimizer, batches, total_steps)
    policy = make_policy(setting)
    if config.compile and policy is not None:
        policy = Gathered(policy)
    freezer = Freezer(wrapped, optimizer, policy, layers, total_steps, example)
    budget = None
    if config.budget is not None:
        budget = ComputeBudget(freezer, config.budget * total_steps)
    if rank:  # different dropout masks in each process
        torch.manual_seed(1_000_003 * rank + config.seed)
    return Run(
        config=config,
        device=device,
        model=wrapped,
        optimizer=optimizer,
        scheduler=make_scheduler(config, optimizer, total_steps, budget),
        scaler=torch.amp.GradScaler(device.type, enabled=config.amp == "fp16"),
        freezer=freezer,
        batches=batches,
        total_steps=total_steps,
        budget=budget,
        calls=trace(model, example),
        pretrained=pretrained,
        metrics=dataset(config.dataset).metrics,
    )


def make_policy(setting: Setting) -> Policy | None:
    """Builds the policy of a run's method; None for full training."""
    build = METHODS[setting.config.method].policy
    return build and build(setting.config.options, setting)


def device_and_rank() -> tuple[torch.device, int, int]:
    """Returns this process's device, its rank, and the number of processes."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))), rank, world_size()
    return torch.device("cpu"), rank, world_size()
