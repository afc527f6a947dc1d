"""A small network, ways to freeze it and to shard it by FSDP2, and runs of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from baselines import AutoFreeze, DisplacementRule, FreezeOut
from baselines.freezeout import param_groups
from smartfrz import (
    AttentionPredictor,
    ComputeBudget,
    Freezer,
    Layer,
    SimilarityGuided,
    SmartFRZ,
    find_layers,
    save_memory,
)
from smartfrz.cost import extra_compute
from tests.helpers.scripted import Scripted

STEPS = 10
BATCH = 8
PARTS = ("blocks.0", "blocks.1")
SCRIPT = {2: ["embedding"], 5: ["blocks.1.up"], 8: ["blocks.0.up", "blocks.0.down"]}


class Block(nn.Module):
    def __init__(self, is_checkpointed: bool) -> None:
        super().__init__()
        self.is_checkpointed = is_checkpointed
        # Registered in another order than used. Of 5 rows, the last process holds fewer or none.
        self.down = nn.Linear(5, 6)
        self.up = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.is_checkpointed:
            return x + checkpoint(self.run, x, use_reentrant=False)
        return x + self.run(x)

    def run(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.norm(self.up(x))))


class Net(nn.Module):
    """A residual network of token ids. The first guessed inputs fail in its middle."""

    def __init__(self, is_checkpointed: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.position = nn.Parameter(0.1 * torch.randn(8, 6))
        self.embedding = nn.Embedding(30, 6)
        self.blocks = nn.ModuleList(Block(is_checkpointed) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def global_batch(step: int) -> Tensor:
    return torch.randint(30, (BATCH, 8), generator=torch.Generator().manual_seed(step))


def loss_of(outputs: Tensor, ids: Tensor) -> Tensor:
    targets = nn.functional.one_hot(ids[:, 0] % 3, 3).to(outputs.dtype)
    return (outputs - targets).square().mean()


def with_momentum(model: nn.Module, layers: list[Layer]) -> Optimizer:
    return SGD(model.parameters(), lr=0.3, momentum=0.5, weight_decay=0.01)


def with_rate_per_layer(model: nn.Module, layers: list[Layer]) -> Optimizer:
    return SGD(param_groups(model, layers), lr=0.3)


def scripted(model: nn.Module, optimizer: Optimizer) -> Scripted:
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    return Scripted(SCRIPT if is_first else {1: ["blocks.0.down"]})


def by_displacement(model: nn.Module, optimizer: Optimizer) -> DisplacementRule:
    return DisplacementRule(1, 0.02, size=16)


def by_prediction(model: nn.Module, optimizer: Optimizer) -> SmartFRZ:
    return SmartFRZ(
        AttentionPredictor.from_pretrained(), interval=1, threshold=0.01, min_records=2, guard=False
    )


def by_gradient(model: nn.Module, optimizer: Optimizer) -> AutoFreeze:
    return AutoFreeze(4, intervals_per_epoch=2, percentile=60.0, norm=2.0)


def by_schedule(model: nn.Module, optimizer: Optimizer) -> FreezeOut:
    return FreezeOut(optimizer, STEPS, t0=0.3)


def by_similarity(model: nn.Module, optimizer: Optimizer) -> SimilarityGuided:
    torch.manual_seed(1)
    return SimilarityGuided(
        model, Net(), [global_batch(0)], interval=2, batch_size=8, tolerance=0.02
    )


@dataclass
class Variant:
    """A way to train.

    Args:
        policy: makes the policy.
        optimizer: makes the optimizer.
        parts: the modules to shard one by one, before the model itself.
        early: whether layers are found before the model is sharded.
        micro_batches: the number of backward passes of a step.
        saves_memory: whether `save_memory` is called.
        is_checkpointed: whether the blocks' activations are checkpointed.
        options: arguments of ``fully_shard``.
    """

    policy: Callable[[nn.Module, Optimizer], Any] = scripted
    optimizer: Callable[[nn.Module, list[Layer]], Optimizer] = with_momentum
    parts: Sequence[str] = PARTS
    early: bool = False
    micro_batches: int = 1
    saves_memory: bool = False
    is_checkpointed: bool = False
    options: dict[str, Any] = field(default_factory=dict)


LEAVES = ("embedding", "blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.activation")
VARIANTS = {
    "early, accumulation, checkpointing": Variant(
        early=True, micro_batches=2, is_checkpointed=True
    ),
    "every leaf, gathered until backward": Variant(
        parts=LEAVES, saves_memory=True, options={"reshard_after_forward": False}
    ),
    "prediction": Variant(by_prediction),
}
MORE_VARIANTS = {
    "default": Variant(),
    "early": Variant(early=True),
    "gathered until backward": Variant(options={"reshard_after_forward": False}),
    "root alone": Variant(parts=()),
    "every leaf": Variant(parts=LEAVES, saves_memory=True),
    "accumulation": Variant(micro_batches=2),
    "checkpointing": Variant(is_checkpointed=True),
    "bfloat16": Variant(options={"mp_policy": "bfloat16"}),
    "AutoFreeze": Variant(by_gradient),
    "displacement": Variant(by_displacement),
    "FreezeOut": Variant(by_schedule, with_rate_per_layer, early=True),
    "similarity": Variant(by_similarity),
}
# For four processes: two replicas of each part.
REPLICAS = Variant(by_prediction, options={"mesh": "replicas"})


def shard(model: nn.Module, parts: Sequence[str], **options: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if options.get("mp_policy") == "bfloat16":
        options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    if options.get("mesh") == "replicas":
        sizes = (2, dist.get_world_size() // 2)
        options["mesh"] = init_device_mesh("cpu", sizes, mesh_dim_names=("replicas", "parts"))
    for part in parts:
        fully_shard(model.get_submodule(part), **options)
    fully_shard(model, **options)


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: full(param).detach().clone() for name, param in model.named_parameters()}


def run_variant(variant: Variant, is_sharded: bool) -> dict[str, Any]:
    """Trains a model.

    Returns:
        ``frozen``: `Freezer.frozen`. ``weights``: the final weights. ``spent``:
        `ComputeBudget.spent`. ``probe``: the policy's own part of it. ``flops``: the FLOPs of each
        step. ``sent``: the bytes of gradients that were reduced in each step. ``moved``: the frozen
        parameters that have changed.
    """
    torch.manual_seed(0)
    model = Net(variant.is_checkpointed)
    layers = find_layers(model, global_batch(0)) if variant.early or not is_sharded else None
    if is_sharded:
        shard(model, variant.parts, **variant.options)
    layers = layers or find_layers(model)
    optimizer = variant.optimizer(model, layers)
    freezer = Freezer(model, optimizer, variant.policy(model, optimizer), layers)
    budget = ComputeBudget(freezer, STEPS, global_batch(0))
    if variant.saves_memory:
        save_memory(model)
    flops, sent = [], []
    before: dict[str, Tensor] = {}
    for step in range(STEPS):
        batch = share_of(global_batch(step)) if is_sharded else global_batch(step)
        with Counter() as counter:
            backward(model, batch, variant.micro_batches)
        flops.append(counter.flops)
        sent.append(counter.sent)
        if newly := freezer.step():
            names = {layer.name for layer in newly}
            before |= {n: w for n, w in weights_of(model).items() if n.rpartition(".")[0] in names}
        optimizer.step()
        optimizer.zero_grad()
        budget.step()
        model.train()
    weights = weights_of(model)
    return {
        "frozen": freezer.frozen,
        "weights": weights,
        "spent": budget.spent,
        "probe": extra_compute(freezer.policy) / STEPS,
        "flops": flops,
        "sent": sent,
        "moved": [name for name, weight in before.items() if not weight.equal(weights[name])],
    }


def share_of(batch: Tensor) -> Tensor:
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


def backward(model: Any, batch: Tensor, micro_batches: int = 1) -> None:
    for index, part in enumerate(batch.chunk(micro_batches)):
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(index == micro_batches - 1)
        (loss_of(model(part), part) / micro_batches).backward()


class Counter(TorchDispatchMode):
    """Counts FLOPs, and the bytes that reduce-scatters take in."""

    flops = sent = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.c10d._reduce_scatter_base_.default:
            self.sent += args[1].numel() * args[1].element_size()
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out
