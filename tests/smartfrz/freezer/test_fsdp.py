"""Tests of FSDP2 (``fully_shard``): sharded runs against one process on the same global batch."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from baselines import AutoFreeze, DisplacementRule, FreezeOut, Unfreezing
from baselines.freezeout import param_groups
from smartfrz import (
    AttentionPredictor,
    ComputeBudget,
    FeatureCache,
    Freezer,
    Layer,
    SimilarityGuided,
    SmartFRZ,
    find_layers,
    fold_batch_norms,
    save_memory,
)
from smartfrz.freezing import freeze_layer
from smartfrz.memory import activation_bytes
from tests.helpers.processes import in_processes
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
    return SimilarityGuided(model, Net(), [global_batch(0)], interval=2, tolerance=0.02)


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
        `ComputeBudget.spent`. ``flops``: the FLOPs of each step. ``sent``: the bytes of gradients
        that were reduced in each step. ``moved``: the frozen parameters that have changed.
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


def results_of(folder: Path, count: int, *arguments: Any) -> list[dict[str, Any]]:
    in_processes(count, work, count, folder, *arguments)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of both processes."""
    return results_of(tmp_path_factory.mktemp("fsdp"), 2, VARIANTS, True)


def check_variant(results: list[dict[str, Any]], variant: str, parts: int) -> None:
    """Checks that a sharded run equals the run of one process, at its share of the cost."""
    expected = results[0]["one process"][variant]
    assert len(set(expected["frozen"].values())) >= 2
    for result in (each[variant] for each in results):
        assert result["frozen"] == expected["frozen"]
        assert result["moved"] == []
        assert result["spent"] == expected["spent"] < 1
        assert [len(results) * flops for flops in result["flops"]] == expected["flops"]
        tolerance = {"atol": 0.01, "rtol": 0.01} if variant == "bfloat16" else {}
        torch.testing.assert_close(result["weights"], expected["weights"], **tolerance)
        assert result["sent"] == expected_bytes(expected["frozen"], parts)


def expected_bytes(frozen: dict[str, int], parts: int) -> list[int]:
    """The bytes of gradients to reduce in each step, rows padded to a multiple of the parts."""
    layers = find_layers(Net(), global_batch(0))
    return [
        4
        * sum(
            -(-len(param) // parts) * parts * param[0].numel()
            for layer in layers
            for param in layer.params
            if frozen.get(layer.name, STEPS) >= step
        )
        for step in range(STEPS)
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_sharded_runs_equal_runs_of_one_process(results: list[dict[str, Any]], variant: str):
    check_variant(results, variant, parts=2)


@pytest.mark.slow
def test_more_variants(tmp_path: Path):
    results = results_of(tmp_path, 2, MORE_VARIANTS, False)
    for variant in MORE_VARIANTS:
        check_variant(results, variant, parts=2)


@pytest.mark.slow
def test_four_processes_of_which_some_hold_no_part(tmp_path: Path):
    results = results_of(tmp_path, 4, VARIANTS | {"replicas": REPLICAS}, False)
    for variant in VARIANTS:
        check_variant(results, variant, parts=4)
    check_variant(results, "replicas", parts=2)


def test_resumed_runs_equal_unbroken_ones(results: list[dict[str, Any]]):
    for result in (each["resumed"] for each in results):
        for name, weight in result["unbroken"].items():
            assert torch.equal(result["weights"][name], weight), name


def test_steps_without_gradient_synchronisation_have_no_effect(results: list[dict[str, Any]]):
    expected = [[], [], ["embedding"], [], [], ["blocks.0.up"]]
    assert [result["mid window"]["frozen"] for result in results] == [expected, expected]


def test_gradients_from_before_the_freeze_do_not_move_frozen_weights(
    results: list[dict[str, Any]],
):
    assert all(result["late gradient"]["is_equal"] for result in results)


def test_thawed_layers_train_again(results: list[dict[str, Any]]):
    frozen = {f"blocks.0.{kind}" for kind in ("up.weight", "up.bias", "norm.weight", "norm.bias")}
    assert [result["thawed"]["still"] for result in results] == [frozen, frozen]


def test_a_policy_thaws_as_in_one_process(results: list[dict[str, Any]]):
    expected = run_unfreezing(is_sharded=False)
    assert {what for _, what, _ in expected["events"]} == {"freeze", "thaw"}
    for result in (each["unfreezing"] for each in results):
        assert result["events"] == expected["events"]
        assert result["spent"] == expected["spent"]
        torch.testing.assert_close(result["weights"], expected["weights"])


def test_all_processes_notice_that_the_optimizer_changes_frozen_weights(
    results: list[dict[str, Any]],
):
    for result in results:
        assert "Decaying changed the frozen layers ['0']" in result["decaying"]["error"]


def test_frozen_embeddings_are_renormalised(results: list[dict[str, Any]]):
    for result in results:
        torch.testing.assert_close(result["embedding"]["norms"], torch.full((9,), 0.5))


def test_frozen_batch_norm_has_the_same_statistics_on_every_process(results: list[dict[str, Any]]):
    means = [mean for result in results for mean in result["convolutions"]["means"]]
    assert means[0].count_nonzero() == 4
    assert all(torch.equal(mean, means[0]) for mean in means)


def test_sharded_leaves_keep_less(results: list[dict[str, Any]]):
    for before, after in (result["convolutions"]["sizes"] for result in results):
        assert after < 0.65 * before


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("flat", "FSDP1.*fully_shard"),
        ("flat, original parameters", "FSDP1.*fully_shard"),
        ("folding", "Use save_memory"),
        ("cache", "does not support"),
        ("stale", "Find the layers again"),
    ],
)
def test_what_is_not_supported_is_refused(results: list[dict[str, Any]], what: str, message: str):
    for result in results:
        assert re.search(message, result["refused"][what])


def test_an_evaluated_model_has_the_same_layers(results: list[dict[str, Any]]):
    names = [layer.name for layer in find_layers(Net(), global_batch(0))]
    for result in results:
        assert result["evaluation"] == {"names": names, "head": True}
