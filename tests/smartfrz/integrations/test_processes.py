"""Tests of the callbacks in two processes, with DDP and FSDP2: frozen alike, resumed to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from smartfrz import Freezer
from smartfrz.integrations import lightning, transformers
from tests.helpers.processes import under_torchrun

pytestmark = pytest.mark.slow

RANKS, STEPS, SAVED = 2, 12, 8


def whole(module: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a module, those that are sharded gathered."""
    values: dict[str, Any] = module.state_dict()
    full = {name: getattr(each, "full_tensor", each.clone)() for name, each in values.items()}
    return full


class Module(LightningModule):
    """A small network; sharded by FSDP2 if the strategy has a mesh."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            *(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU()),
            *(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)),
        )

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            assert self.device_mesh is not None
            for part in self.net:
                if isinstance(part, nn.Linear):
                    fully_shard(part, mesh=self.device_mesh["data_parallel"])
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Ended(Callback):
    """Keeps the weights; ends the run at a step, as if it was killed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step

    def on_train_end(self, _: Any, module: LightningModule) -> None:
        self.weights = whole(module)


def with_lightning(strategy: Callable[[], Any], folder: Path, last: int, resume: bool) -> Any:
    callback, ended = lightning.SmartFRZCallback(budget=0.7), Ended(last)
    checkpoints = [ModelCheckpoint(folder, "saved", every_n_train_steps=SAVED)]
    trainer = Trainer(
        accelerator="cpu",
        devices=RANKS,
        strategy=strategy(),
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=not resume,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, ended, *([] if resume else checkpoints)],
    )
    seeded = torch.Generator().manual_seed(0)
    # Lightning resumes in the middle of an epoch with its first batch: an epoch has 4 steps.
    data = TensorDataset(torch.randn(4 * 4 * RANKS, 8, generator=seeded), torch.arange(32) % 2)
    path = folder / "saved.ckpt" if resume else None
    trainer.fit(Module(), DataLoader(data, batch_size=4), ckpt_path=path)
    return callback.freezer, ended.weights


def sharded_by_lightning() -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=RANKS, tensor_parallel_size=1)


def with_transformers(folder: Path, last: int, resume: bool) -> Any:
    from tests.smartfrz.integrations.test_transformers import Stopped, bert, sentences, trainer_of

    model, callback = bert(), transformers.SmartFRZCallback(budget=0.7)
    others = [Stopped()] if last < STEPS else []
    settings = {"max_steps": STEPS, "save_steps": SAVED}
    trainer = trainer_of(folder, model, sentences(), callback, *others, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return callback.freezer, whole(model)


TRAINERS: dict[str, Callable[[Path, int, bool], tuple[Freezer, dict[str, Tensor]]]] = {
    "lightning ddp": lambda *args: with_lightning(lambda: "ddp", *args),
    "lightning fsdp2": lambda *args: with_lightning(sharded_by_lightning, *args),
    "transformers ddp": with_transformers,
}


def sharded_by_transformers(folder: Path, is_sharded: bool) -> Freezer:
    """Trains a model that was sharded by FSDP2 when it was loaded, which cannot be resumed."""
    from transformers import BertForSequenceClassification
    from transformers.distributed import DistributedConfig

    from tests.smartfrz.integrations.test_transformers import bert, sentences, trainer_of

    if dist.get_rank() == 0:
        bert().save_pretrained(folder / "model")  # type: ignore[operator]
    dist.barrier()
    sharding = {"distributed_config": DistributedConfig(fsdp_size=RANKS)} if is_sharded else {}
    model = BertForSequenceClassification.from_pretrained(folder / "model", **sharding)
    callback = transformers.SmartFRZCallback(budget=0.7)
    trainer_of(folder, model, sentences(), callback, save_strategy="no").train()
    assert callback.freezer is not None
    callback.freezer.weights = whole(model)  # type: ignore[attr-defined]
    return callback.freezer


def work(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, train in TRAINERS.items():
        freezer, weights = train(folder / name / "whole", STEPS, False)
        stopped, _ = train(folder / name / "stopped", SAVED, False)
        again, resumed = train(folder / name / "stopped", STEPS, True)
        results[name] = {
            "events": [each.events for each in (freezer, stopped, again)],
            "spent": freezer.compute_spent / STEPS,
            "equal": [torch.equal(weights[key], resumed[key]) for key in weights],
        }
    one, other = (sharded_by_transformers(folder, is_sharded) for is_sharded in (True, False))
    results["events of fsdp2"], results["events"] = one.events, other.events
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return under_torchrun(RANKS, work, tmp_path_factory.mktemp("trainers"))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_resumed_run_ends_with_the_same_weights(results, trainer):
    whole_run, stopped, resumed = results[0][trainer]["events"]
    assert resumed == whole_run
    assert 0 < len(stopped) < len(whole_run)
    for result in results:
        assert result[trainer]["events"] == results[0][trainer]["events"]
        assert all(result[trainer]["equal"]) and result[trainer]["equal"]
        assert result[trainer]["spent"] == pytest.approx(0.7, abs=0.03)


def test_a_sharded_model_freezes_like_one_that_is_not(results):
    for result in results:
        assert result["events of fsdp2"] == result["events"] == results[0]["events"] != []
