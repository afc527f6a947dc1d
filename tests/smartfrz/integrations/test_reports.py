"""What people reported who froze layers in these trainers, tried with the callbacks.

Others of these reports are the subject of tests elsewhere: runs that lose what was frozen when they
resume (transformers#11294, composer#1002) of those on resumed runs, DDP that fails at the first
freeze (Lightning#20340) and checkpoints without the optimizer state of frozen parameters
(pytorch#192202, accelerate#807) of those in two processes, and frozen layers that save no time
(transformers#600, google-research/bert#660) of those on `smartfrz.estimate`.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import TrainerCallback

from smartfrz.integrations import lightning, transformers
from tests.helpers.scripted import Scripted
from tests.smartfrz.integrations.test_lightning import Stopped as StoppedInLightning
from tests.smartfrz.integrations.test_lightning import Whole, fit, freezer_of
from tests.smartfrz.integrations.test_transformers import bert, sentences, trainer_of

FRONT = "bert.embeddings.word_embeddings"


class Thawed(Callback):
    """Thaws all layers at a step."""

    def __init__(self, callback: lightning.SmartFRZCallback, step: int) -> None:
        self.callback, self.step = callback, step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            freezer = freezer_of(self.callback)
            freezer.thaw()


def test_what_was_thawed_before_a_checkpoint_trains_after_it(tmp_path: Path):
    """Lightning#21901: modules that were unfrozen come back frozen, without a word."""
    callback = lightning.SmartFRZCallback(Scripted({1: ["net.0", "net.3"]}))
    stopped = Whole()
    fit(stopped, callback, Thawed(callback, 4), StoppedInLightning(), folder=tmp_path)
    assert not freezer_of(callback).frozen
    resumed, again = Whole(), lightning.SmartFRZCallback(Scripted({}))
    fit(resumed, again, resume=tmp_path / "saved.ckpt")
    assert freezer_of(again).events == freezer_of(callback).events
    assert not freezer_of(again).frozen
    assert all(param.requires_grad for param in resumed.parameters())
    assert not torch.equal(resumed.net[0].weight, stopped.net[0].weight)


def test_statistics_of_frozen_norms_stand_still():
    """Lightning#13902, #15062: running statistics of frozen batch norms go on changing."""
    module = Whole()
    fit(module, lightning.SmartFRZCallback(Scripted({0: ["net.0"]})), max_steps=1)
    before = {name: value.clone() for name, value in module.net[1].state_dict().items()}
    fit(module, lightning.SmartFRZCallback(Scripted({})), max_steps=4)
    moved = [n for n, v in module.net[1].state_dict().items() if not torch.equal(v, before[n])]
    assert moved == []
    assert not module.net[1].training and module.net[4].training


class Kept(TrainerCallback):
    """Keeps a weight above the front after each step."""

    def __init__(self, model: nn.Module) -> None:
        self.query = model.get_parameter("bert.encoder.layer.0.attention.self.query.weight")
        self.queries: list[torch.Tensor] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.queries.append(self.query.detach().clone())


def test_reentrant_checkpoints_do_not_lose_gradients_silently(tmp_path: Path):
    """transformers#16276, #21381: above a frozen prefix, nothing trains any more."""
    model = bert()
    callback = transformers.SmartFRZCallback(Scripted({1: [FRONT]}))
    settings = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    }
    kept = Kept(model)
    trainer = trainer_of(
        tmp_path, model, sentences(), callback, kept, save_strategy="no", **settings
    )
    trainer.train()
    assert callback.freezer is not None and callback.freezer.frozen == {FRONT: 1}
    after_the_freeze = kept.queries[1:]
    assert len(after_the_freeze) > 5
    for before, after in pairwise(after_the_freeze):
        assert not torch.equal(before, after)


def test_hooks_for_adapters_do_not_run_the_backward_pass_to_the_front(tmp_path: Path):
    """llama-cookbook#438: with these hooks a frozen prefix saves nothing."""
    lora = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    model: nn.Module = get_peft_model(bert(), lora)  # type: ignore[arg-type]
    callback = transformers.SmartFRZCallback(budget=0.7)
    settings = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    trainer = trainer_of(tmp_path, model, sentences(), callback, save_strategy="no", **settings)
    trainer.train()
    assert callback.freezer is not None
    assert not callback.freezer.input_gradients_are_computed
    assert callback.freezer.compute_spent / callback.freezer.steps == pytest.approx(0.7, abs=0.02)


def test_groups_of_the_optimizer_and_their_rates_stay(tmp_path: Path):
    """transformers#43692: without its parameters, a group of the optimizer cannot be restored."""
    model = bert()
    groups = [{"params": [p], "lr": 0.9**n} for n, p in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(groups)
    callback = transformers.SmartFRZCallback(budget=0.7)
    trainer = trainer_of(tmp_path, model, sentences(), callback, lr_scheduler_type="constant")
    trainer.optimizer = optimizer
    trainer.train()
    assert callback.freezer is not None and callback.freezer.frozen
    assert [group["lr"] for group in optimizer.param_groups] == [0.9**n for n in range(len(groups))]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1] * len(groups)


def test_the_best_model_may_be_of_a_time_before_a_freeze(tmp_path: Path):
    """At the end, the Trainer puts other weights into frozen layers: that is no error."""
    callback = transformers.SmartFRZCallback(budget=0.7)
    settings = {
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "metric_for_best_model": "loss",
        "greater_is_better": True,  # the first one
        "learning_rate": 0.01,
    }
    model = bert()
    trainer = trainer_of(tmp_path, model, sentences(), callback, **settings)
    trainer.train()
    assert trainer.state.best_global_step is not None
    assert callback.freezer is not None and callback.freezer.frozen
