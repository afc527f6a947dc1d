"""Tests of the callback for the Trainer of Hugging Face transformers."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from smartfrz import BudgetPlan, Freezer, find_layers
from smartfrz.inspect import load_run, table
from smartfrz.integrations.transformers import SmartFRZCallback
from tests.helpers.scripted import Scripted

STEPS, SAVED = 12, 8

pytestmark = [
    # Of the Trainer itself, whatever it trains.
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning"),
]


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return BertForSequenceClassification(config)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return ResNetForImageClassification(config)


def sentences() -> list[dict[str, Tensor]]:
    seeded = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (64, 8), generator=seeded)
    return [{"input_ids": row, "labels": row.sum() % 2} for row in ids]


def images() -> list[dict[str, Tensor]]:
    seeded = torch.Generator().manual_seed(1)
    pixels = torch.randn(64, 3, 32, 32, generator=seeded)
    return [{"pixel_values": each, "labels": (each.sum() > 0).long()} for each in pixels]


class Reporter(TrainerCallback):
    """Keeps what it is given to report, as wandb's and TensorBoard's callbacks do."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))


class Stopped(TrainerCallback):
    """Ends the training run as soon as a checkpoint is written, as if it was killed."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True


def trainer_of(
    folder: Path,
    model: nn.Module,
    data: list[dict[str, Tensor]],
    *callbacks: TrainerCallback,
    **settings: Any,
) -> Trainer:
    usual: dict[str, Any] = {
        "max_steps": STEPS,
        "save_steps": SAVED,
        "logging_steps": 4,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = TrainingArguments(output_dir=str(folder), **usual | settings)
    return Trainer(
        model, args, train_dataset=data, eval_dataset=data[:8], callbacks=list(callbacks)
    )


def test_a_budget_is_spent_and_logged(tmp_path):
    reporter, callback = Reporter(), SmartFRZCallback(budget=0.7)
    trainer = trainer_of(tmp_path, bert(), sentences(), reporter, callback, logging_steps=2)
    trainer.train()
    assert callback.freezer is not None
    spent = callback.freezer.compute_spent / STEPS
    assert spent == pytest.approx(0.7, abs=0.02)
    assert reporter.logs[0]["frozen_layers"] == 0
    assert reporter.logs[0]["compute_spent"] == pytest.approx(2 / STEPS)
    share = len(callback.freezer.frozen) / len(callback.freezer.layers)
    last = {"frozen_layers": share, "compute_spent": spent}
    assert reporter.logs[5].items() >= last.items()
    assert trainer.state.log_history[5].items() >= last.items()
    assert "compute_spent" not in reporter.logs[6]  # the summary of the run


def test_memory_is_logged(tmp_path):
    reporter, model = Reporter(), bert()
    layers = find_layers(model, {"input_ids": sentences()[0]["input_ids"][None]})
    body = [layer.name for layer in layers if not layer.is_head]
    callback = SmartFRZCallback(Scripted({4: body}))
    trainer_of(tmp_path, model, sentences(), reporter, callback, save_strategy="no").train()
    first, second, third, _ = reporter.logs
    whole = 4e-6 * sum(param.numel() for param in model.parameters())
    part = 4e-6 * sum(param.numel() for param in model.parameters() if param.requires_grad)
    assert first["gradients_mb"] == pytest.approx(whole)
    assert second["gradients_mb"] == pytest.approx(part) and part < whole
    assert first["optimizer_state_mb"] == pytest.approx(2 * whole, rel=0.01)
    assert second["optimizer_state_mb"] == pytest.approx(2 * part, rel=0.05)
    assert first["activations_mb"] > second["activations_mb"] == third["activations_mb"] > 0
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_it_trains_like_a_plain_loop(tmp_path):
    """The same layers freeze at the same steps, and the weights are equal to the bit."""
    data, callback = images(), SmartFRZCallback(lambda steps: BudgetPlan(0.7, steps))
    by_trainer, by_hand = resnet(), resnet()
    settings = {"lr_scheduler_type": "constant", "optim": "sgd", "learning_rate": 0.1}
    settings |= {"max_grad_norm": 0, "train_sampling_strategy": "sequential"}
    trainer_of(tmp_path, by_trainer, data, callback, **settings).train()

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    pixels, labels = (torch.stack([each[name] for each in data]) for name in data[0])
    plan = BudgetPlan(0.7, STEPS)
    freezer = Freezer(by_hand, optimizer, plan, example_inputs={"pixel_values": pixels[:1]})
    by_hand.train()
    for step in range(STEPS):
        rows = slice(4 * step, 4 * step + 4)
        by_hand(pixel_values=pixels[rows], labels=labels[rows]).loss.backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    assert callback.freezer is not None
    assert callback.freezer.events == freezer.events != []
    for name, value in by_hand.state_dict().items():
        assert torch.equal(value, by_trainer.state_dict()[name]), name


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        (bert, {}),
        (resnet, {}),
        (bert, {"gradient_accumulation_steps": 2}),
        (bert, {"restore_callback_states_from_checkpoint": True}),
        pytest.param(bert, {"bf16": True}, marks=pytest.mark.slow),
        pytest.param(bert, {"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param(resnet, {"max_grad_norm": 0, "optim": "sgd"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.__name__ if callable(value) else next(iter(value), "usual"),
)
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, network, settings):
    data = sentences() if network is bert else images()
    whole, stopped, resumed = network(), network(), network()
    callback, again = SmartFRZCallback(budget=0.7), SmartFRZCallback(budget=0.7)
    trainer_of(tmp_path / "whole", whole, data, callback, **settings).train()
    folder = tmp_path / "stopped"
    first = SmartFRZCallback(budget=0.7)
    trainer_of(folder, stopped, data, first, Stopped(), **settings).train()
    assert first.freezer is not None and len(first.freezer.frozen) > 0
    trainer = trainer_of(folder, resumed, data, again, **settings)
    trainer.train(resume_from_checkpoint=True)
    (again,) = (each for each in trainer.callback_handler.callbacks if type(each) is type(again))
    assert callback.freezer is not None and again.freezer is not None
    assert again.freezer.events == callback.freezer.events
    assert len(callback.freezer.frozen) > len(first.freezer.frozen)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_resumed_without_its_state_it_spends_the_budget_on_the_remaining_steps(tmp_path):
    data = sentences()
    trainer_of(tmp_path, bert(), data, Stopped()).train()
    callback = SmartFRZCallback(budget=0.7)
    trainer = trainer_of(tmp_path, bert(), data, callback, save_steps=1)
    with pytest.warns(UserWarning, match=r"no state of SmartFRZCallback.*steps that are left"):
        trainer.train(resume_from_checkpoint=True)
    assert callback.freezer is not None and callback.freezer.steps == STEPS - SAVED
    again = SmartFRZCallback(budget=0.7)
    trainer = trainer_of(tmp_path, bert(), data, again, max_steps=STEPS + 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The checkpoint has no state")
        trainer.train(resume_from_checkpoint=True)
    assert again.freezer is not None
    assert again.freezer.steps == again.freezer.total_steps == STEPS + 4 - SAVED


def test_a_checkpoint_shows_what_froze(tmp_path):
    callback = SmartFRZCallback(budget=0.7)
    trainer_of(tmp_path, bert(), sentences(), callback, Stopped()).train()
    assert callback.freezer is not None
    folder = tmp_path / f"checkpoint-{SAVED}"
    for path in (folder, folder / "trainer_state.json"):
        run = load_run(path)
        assert (run.frozen, run.steps) == (callback.freezer.frozen, SAVED)
    assert table(run) == str(callback.freezer)


def test_another_run_with_the_same_callback_begins_anew(tmp_path):
    model, callback = bert(), SmartFRZCallback(budget=0.7)
    trainer = trainer_of(tmp_path, model, sentences(), callback, save_strategy="no")
    trainer.train()
    first = callback.freezer
    assert first is not None and first.frozen
    trainer.train()
    assert callback.freezer is not first and callback.freezer is not None
    assert callback.freezer.events[0][0] > 0
    assert len(callback.freezer.layers) == len(first.layers)


def test_a_policy_is_taken_as_it_is(tmp_path):
    policy = Scripted({0: ["bert.embeddings.word_embeddings"]})
    callback = SmartFRZCallback(policy)
    trainer_of(tmp_path, bert(), sentences(), callback, max_steps=2, save_strategy="no").train()
    assert callback.freezer is not None and callback.freezer.policy is policy
    assert callback.freezer.frozen == {"bert.embeddings.word_embeddings": 0}


@pytest.mark.parametrize("given", [{}, {"policy": Scripted({}), "budget": 0.7}])
def test_a_policy_or_a_budget_must_be_given(given):
    with pytest.raises(ValueError, match=r"either a budget.*or a policy"):
        SmartFRZCallback(**given)


def test_a_budget_is_a_fraction():
    with pytest.raises(ValueError, match=r"budget=70 must be more than 0 and at most 1"):
        SmartFRZCallback(budget=70)


def test_a_policy_cannot_be_restored_from_json(tmp_path):
    data, settings = sentences(), {"restore_callback_states_from_checkpoint": True}
    callbacks = (SmartFRZCallback(Scripted({})), Stopped())
    trainer_of(tmp_path, bert(), data, *callbacks, **settings).train()
    trainer = trainer_of(tmp_path, bert(), data, SmartFRZCallback(Scripted({})), **settings)
    with pytest.raises(ValueError, match="restore_callback_states_from_checkpoint=False"):
        trainer.train(resume_from_checkpoint=True)


def test_a_budget_out_of_reach_ends_the_run_at_its_first_step(tmp_path):
    trainer = trainer_of(tmp_path, bert(), sentences(), SmartFRZCallback(budget=0.05))
    with pytest.raises(ValueError, match=r"budget=0\.05 cannot be reached"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.slow
def test_compiled(tmp_path):
    """Code that is compiled again after a freeze trains what eager code trains."""
    eager, compiled = resnet(), resnet()
    for model, is_compiled in ((eager, False), (compiled, True)):
        callback = SmartFRZCallback(Scripted({2: ["resnet.embedder.embedder.convolution"]}))
        settings: dict[str, Any] = {"max_steps": 5, "optim": "sgd", "torch_compile": is_compiled}
        trainer_of(tmp_path, model, images(), callback, save_strategy="no", **settings).train()
        assert callback.freezer is not None
        assert callback.freezer.events == [(2, "freeze", "resnet.embedder.embedder.convolution")]
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(value, compiled.state_dict()[name], rtol=1e-3, atol=1e-4)
