"""Runs of a network sharded by FSDP2 (``fully_shard``), as processes execute them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from baselines import Unfreezing
from smartfrz import (
    FeatureCache,
    Freezer,
    Layer,
    find_layers,
    fold_batch_norms,
    save_memory,
)
from smartfrz.freezing import freeze_layer
from smartfrz.memory import activation_bytes
from tests.helpers.scripted import Scripted
from tests.helpers.sharded_net import (
    PARTS,
    SCRIPT,
    STEPS,
    Net,
    Variant,
    backward,
    global_batch,
    loss_of,
    run_variant,
    shard,
    share_of,
    weights_of,
)


def built(parts: Sequence[str] = PARTS) -> tuple[Any, Optimizer, Freezer]:
    torch.manual_seed(0)
    model = Net()
    shard(model, parts)
    optimizer = AdamW(model.parameters(), lr=0.01)
    return model, optimizer, Freezer(model, optimizer, Scripted(SCRIPT))


def train(model: Any, optimizer: Optimizer, freezer: Freezer, steps: range) -> None:
    for step in steps:
        backward(model, share_of(global_batch(step)))
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()


def run_resumed() -> dict[str, Any]:
    """A run that is stopped after 5 steps and resumed, and an unbroken one."""
    from torch.distributed.checkpoint import state_dict

    unbroken = built()
    train(*unbroken, range(STEPS))
    model, optimizer, freezer = built()
    train(model, optimizer, freezer, range(5))
    states = state_dict.get_state_dict(model, optimizer)
    frozen = freezer.state_dict()
    model, optimizer, freezer = built()
    freezer.load_state_dict(frozen)
    state_dict.set_state_dict(
        model, optimizer, model_state_dict=states[0], optim_state_dict=states[1]
    )
    train(model, optimizer, freezer, range(5, STEPS))
    return {"weights": weights_of(model), "unbroken": weights_of(unbroken[0])}


def run_mid_window() -> dict[str, Any]:
    """Steps of the freezer after every micro-batch, of which the third is the last."""
    model, optimizer, freezer = built()
    freezer.policy = Scripted({0: ["embedding"], 1: ["blocks.0.up"]})
    frozen = []
    for index in range(6):
        model.set_requires_gradient_sync(index % 3 == 2)
        loss_of(model(global_batch(index)), global_batch(index)).backward()
        frozen.append([layer.name for layer in freezer.step()])
        if index % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    return {"frozen": frozen}


def run_late_gradient() -> dict[str, Any]:
    """A layer frozen between two micro-batches; its first gradient is reduced at the second."""
    model, optimizer, _ = built()
    layer = find_layers(model)[0]
    before = weights_of(model)["embedding.weight"]
    model.set_requires_gradient_sync(False)
    loss_of(model(global_batch(0)), global_batch(0)).backward()
    freeze_layer(layer, optimizer)
    model.set_requires_gradient_sync(True)
    loss_of(model(global_batch(0)), global_batch(0)).backward()
    optimizer.step()
    return {"is_equal": weights_of(model)["embedding.weight"].equal(before)}


def run_thawed() -> dict[str, Any]:
    """The layers that move in a step after they were thawed."""
    model, optimizer, freezer = built()
    freezer.load_state_dict({"step": 3, "frozen": {"blocks.0.up": 1, "embedding": 2}, "policy": {}})
    train(model, optimizer, freezer, range(1))
    freezer.thaw([layer for layer in freezer.layers if layer.name == "embedding"])
    before = weights_of(model)
    train(model, optimizer, freezer, range(1))
    moved = {name for name, weight in weights_of(model).items() if not weight.equal(before[name])}
    return {"still": set(before) - moved}


def run_unfreezing(is_sharded: bool = True) -> dict[str, Any]:
    """A policy that is planned on the costs of the model, and thaws layers."""
    torch.manual_seed(0)
    model = Net()
    if is_sharded:
        shard(model, PARTS)
    optimizer = SGD(model.parameters(), lr=0.3, momentum=0.5)
    policy = Unfreezing(STEPS, compute=0.8)
    freezer = Freezer(model, optimizer, policy, example_inputs=global_batch(0))
    for step in range(STEPS):
        backward(model, share_of(global_batch(step)) if is_sharded else global_batch(step))
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    spent = freezer.compute_spent
    return {"events": freezer.events, "spent": spent, "weights": weights_of(model)}


class Decaying(Optimizer):
    """Decays all parameters, with a gradient or without."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for param in self.param_groups[0]["params"]:
            param.mul_(0.9)


def run_decaying() -> dict[str, Any]:
    """An optimizer that changes frozen weights, of which only one process holds a part."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 4), nn.Linear(4, 2))
    shard(model, ())
    optimizer = Decaying(model.parameters(), {})
    freezer = Freezer(model, optimizer, Scripted({0: ["0"]}))

    def train() -> None:
        for _ in range(3):
            model(torch.ones(2, 3)).sum().backward()
            freezer.step()
            optimizer.step()
            optimizer.zero_grad()

    return {"error": error_of(train)}


def run_embedding() -> dict[str, Any]:
    """The norms of the rows of a frozen embedding with ``max_norm``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=0.5), nn.Flatten(), nn.Linear(32, 2))
    shard(model, ("0",))
    optimizer = SGD(model.parameters(), lr=0.1)
    layers = [replace(layer, is_head=layer.name == "2") for layer in find_layers(model)]
    freezer = Freezer(model, optimizer, Scripted({0: ["0"]}), layers)
    model(torch.ones(1, 8, dtype=torch.long)).sum().backward()
    freezer.step()
    return {"norms": weights_of(model)["0.weight"].norm(dim=1)}


def run_convolutions() -> dict[str, Any]:
    """Batch norm statistics and saved activations of a network with a frozen layer."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 6)]
    model = nn.Sequential(*layers, nn.Flatten())
    shard(model, ("1",))
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["1"]}))
    images = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(dist.get_rank()))
    model(images).sum().backward()
    freezer.step()
    optimizer.zero_grad()
    means = [model.get_buffer("2.running_mean").clone()]
    sizes = []
    for _ in range(2):
        sizes.append(activation_bytes(lambda: model(images), [images]))
        model(images).sum().backward()
        save_memory(model)
    means.append(model.get_buffer("2.running_mean"))
    return {"means": means, "sizes": sizes}


def run_refused() -> dict[str, str]:
    """The messages about what is not supported."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def flattened(use_orig_params: bool) -> nn.Module:
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(Net(), use_orig_params=use_orig_params, device_id=cpu)

    model, optimizer, freezer = built()
    by_hand = [Layer("head", (), (nn.Parameter(torch.ones(3, 6)),))]
    attempts = {
        "flat": lambda: find_layers(flattened(False), global_batch(0)),
        "flat, original parameters": lambda: Freezer(flattened(True), optimizer, None, by_hand),
        "folding": lambda: fold_batch_norms(model),
        "cache": lambda: FeatureCache(freezer),
        "stale": lambda: Freezer(model, optimizer, None, by_hand),
    }
    return {name: error_of(attempt) for name, attempt in attempts.items()}


def error_of(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return ""


def run_after_evaluation() -> dict[str, Any]:
    """The layers of a model that is found gathered, because it was evaluated before."""
    torch.manual_seed(0)
    model = Net()
    shard(model, PARTS)
    with torch.no_grad():
        model(global_batch(0))
    layers = find_layers(model)
    assert set(model.parameters()) == {param for layer in layers for param in layer.params}
    return {"names": [layer.name for layer in layers], "head": layers[-1].is_head}


OTHERS = {
    "resumed": run_resumed,
    "mid window": run_mid_window,
    "late gradient": run_late_gradient,
    "thawed": run_thawed,
    "unfreezing": run_unfreezing,
    "decaying": run_decaying,
    "embedding": run_embedding,
    "convolutions": run_convolutions,
    "refused": run_refused,
    "evaluation": run_after_evaluation,
}


def work(
    rank: int, world_size: int, folder: Path, variants: dict[str, Variant], others: bool
) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    if rank == 0:
        results["one process"] = {n: run_variant(v, is_sharded=False) for n, v in variants.items()}
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", rendezvous, rank=rank, world_size=world_size)
    results |= {name: run_variant(variant, is_sharded=True) for name, variant in variants.items()}
    if others:
        results |= {name: run() for name, run in OTHERS.items()}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()
