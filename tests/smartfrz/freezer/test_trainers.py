"""Tests of trainers that wrap the model in DDP after the freezer was created, in two processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DataLoader

from smartfrz import Freezer, find_layers
from tests.helpers.processes import under_torchrun
from tests.helpers.scripted import Scripted

RANKS = 2
STEPS = 6
SCRIPT = {1: ["0"], 3: ["2"]}

Result = tuple[Freezer, list[int]]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.net(x).square().mean()}


def freezer_of(net: Net) -> Freezer:
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    return Freezer(net.net, optimizer, Scripted(SCRIPT))


def dataset() -> list[dict[str, Tensor]]:
    inputs = torch.randn(4 * RANKS * STEPS, 8, generator=torch.Generator().manual_seed(0))
    return [{"x": each} for each in inputs]


class Counter:
    """Counts the bytes that DDP communicates in each step, and calls the freezer."""

    def __init__(self, freezer: Freezer) -> None:
        self.freezer = freezer
        self.sent = [0]
        self.is_registered = False

    def before_optimizer_step(self, wrapper: Any) -> None:
        self.freezer.step()
        if not self.is_registered:
            assert isinstance(wrapper, DistributedDataParallel)
            assert not wrapper.find_unused_parameters
            wrapper.register_comm_hook(self.sent, self._hook)
            self.is_registered = True
        self.sent.append(0)

    @staticmethod
    def _hook(sent: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        sent[-1] += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(None, bucket)


def with_accelerate(folder: Path) -> Result:
    from accelerate import Accelerator

    net = Net()
    freezer = freezer_of(net)
    counter = Counter(freezer)
    accelerator = Accelerator(cpu=True)
    loader = DataLoader(dataset(), batch_size=4)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(net, freezer.optimizer, loader)
    for batch in loader:
        accelerator.backward(model(**batch)["loss"])
        counter.before_optimizer_step(model)
        optimizer.step()
        optimizer.zero_grad()
    return freezer, counter.sent


def with_transformers(folder: Path) -> Result:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    net = Net()
    freezer = freezer_of(net)
    counter = Counter(freezer)

    class Freezing(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            counter.before_optimizer_step(trainer.model_wrapped)

    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=4,
        max_steps=STEPS,
        max_grad_norm=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )
    trainer = Trainer(
        net,
        arguments,
        train_dataset=dataset(),
        optimizers=(freezer.optimizer, None),
        callbacks=[Freezing()],
    )
    trainer.train()
    return freezer, counter.sent


def with_lightning(folder: Path) -> Result:
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    net = Net()
    freezer = freezer_of(net)
    counter = Counter(freezer)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            return self.net(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return freezer.optimizer

    class Freezing(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
            counter.before_optimizer_step(trainer.strategy.model)

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=RANKS,
        strategy=DDPStrategy(),
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Freezing()],
    )
    trainer.fit(Module(), DataLoader(dataset(), batch_size=4))  # type: ignore[arg-type]
    return freezer, counter.sent


TRAINERS: dict[str, Callable[[Path], Result]] = {
    "accelerate": with_accelerate,
    "transformers": with_transformers,
    "lightning": with_lightning,
}


def work(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, train in TRAINERS.items():
        freezer, sent = train(folder / name)
        results[name] = {"frozen": freezer.frozen, "sent": sent[1:STEPS]}
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return under_torchrun(RANKS, work, tmp_path_factory.mktemp("trainers"))


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_frozen_gradients_are_no_longer_communicated(results: list[dict[str, Any]], trainer: str):
    layers = find_layers(Net().net)
    expected = []
    for step in range(1, STEPS):
        frozen = [name for frozen_at, names in SCRIPT.items() if frozen_at < step for name in names]
        training = [layer for layer in layers if layer.name not in frozen]
        expected.append(4 * sum(p.numel() for layer in training for p in layer.params))
    assert len(set(expected)) == 3
    for result in results:
        assert result[trainer]["frozen"] == {"0": 1, "2": 3}
        assert result[trainer]["sent"] == expected
