"""Layer freezing in the Trainer of Lightning."""

import math
from pathlib import Path
from typing import Any

import torch

from smartfrz.freezer import Freezer
from smartfrz.graph import Inputs
from smartfrz.integrations import requires
from smartfrz.integrations.called_modules import CalledModules
from smartfrz.integrations.first_inputs import on_device_of
from smartfrz.integrations.logs import FreezingLogs
from smartfrz.integrations.policies import PolicyMaker, policy_maker
from smartfrz.policies import Policy

with requires("lightning"):
    from lightning.pytorch import Callback, LightningModule
    from lightning.pytorch.callbacks import BaseFinetuning
    from lightning.pytorch.utilities import rank_zero_warn


class SmartFRZCallback(Callback):
    """Freezes layers while a ``Trainer`` of Lightning trains:

        trainer = Trainer(..., callbacks=[SmartFRZCallback(budget=0.7)])

    The layers are those of the module that ``training_step`` calls with the first batch: the
    ``LightningModule`` itself, as in ``self(x)``, or one of its modules, as in ``self.net(x)``.
    Freezing takes place right before the optimizer steps, in automatic and in manual optimization.
    The numbers of `FreezingLogs` are logged every ``log_every_n_steps``: the fraction of layers
    that are frozen, the compute spent so far, and the memory of gradients, optimizer state and
    activations.

    Checkpoints contain the freezer's state, and ``fit(ckpt_path=...)`` restores it. Resumed without
    the state, as when the callback was added later, freezing begins anew, and the budget is that of
    the steps that are left.

    ``BackboneFinetuning`` and other callbacks that freeze and unfreeze layers cannot be used beside
    it: both decide which layers train. With ``fast_dev_run``, too short for a budget, nothing
    freezes.

    Args:
        policy: the policy, or a function that makes it for a number of optimizer steps, such as
            ``lambda steps: BudgetPlan(0.7, steps)``. A policy can be used for one run.
        budget: in place of a policy, the fraction of full training's compute that the run spends:
            `SmartFRZ` with the bundled predictor.
        module: the name of the module whose layers freeze, if ``training_step`` calls several.
        optimizer: the index of the optimizer before whose steps layers freeze, if there are
            several.

    Attributes:
        freezer: the freezer of the present or last run, from its first optimizer step on.

    Raises:
        ValueError: both a policy and a budget were given, or none. When training begins: it is not
            known which module or optimizer is meant, the number of steps is not known, another
            callback freezes layers, or see `Freezer`.
    """

    def __init__(
        self,
        policy: Policy | PolicyMaker | None = None,
        budget: float | None = None,
        module: str | None = None,
        optimizer: int | None = None,
    ) -> None:
        self._make_policy = policy_maker(policy, budget)
        self.module, self.optimizer = module, optimizer
        self.freezer: Freezer | None = None
        self._called: CalledModules | None = None
        self._name = ""
        self._inputs: Inputs | None = None
        self._steps_before = 0
        self._saved: dict[str, Any] = {}
        self._logs: FreezingLogs | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the freezer's state, and what its layers are found with."""
        if self.freezer is None:
            return {}
        return {
            "module": self._name,
            "inputs": self._inputs,
            "steps_before": self._steps_before,
            "freezer": self.freezer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until the model and the optimizers are there."""
        self._saved = state_dict

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Prepares to restore the freezer where the checkpoint is read late, as with FSDP2.

        FSDP2 asks the checkpoint for the optimizer state of all parameters that train, and that of
        frozen ones is not there: layers have to be frozen when the path is known, but nothing has
        been read yet. There is no hook for that moment.
        """
        strategy = trainer.strategy
        if stage != "fit" or not strategy.restore_checkpoint_after_setup:
            return
        load = strategy.load_checkpoint

        def freeze_and_load(checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
            strategy.load_checkpoint = load
            self._restore(_saved_in(Path(checkpoint_path), self.state_key), trainer, pl_module)
            return load(checkpoint_path, *args, **kwargs)

        strategy.load_checkpoint = freeze_and_load

    def on_fit_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Restores the freezer."""
        self._check(trainer)
        if self.freezer is not None:
            self.freezer.thaw()
            self.freezer = None
        self._restore(self._saved, trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Waits for the first batch to find the layers with."""
        self._saved = {}
        if self.freezer is not None:
            return
        self._steps_before = _steps(trainer)
        if self._steps_before:
            rank_zero_warn(
                "The checkpoint has no state of SmartFRZCallback. Freezing begins anew, and a "
                "budget is that of the steps that are left."
            )
        self._called = CalledModules(pl_module)

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Freezes layers."""
        if optimizer is not trainer.optimizers[self.optimizer or 0]:
            return
        if self.freezer is None:
            assert self._called is not None
            self._called.end()
            self._name = self._module_called(self._called)
            self._inputs = self._called.inputs[self._name]
            self._start(trainer, pl_module)
        assert self.freezer is not None and self._logs is not None
        self.freezer.step()
        self._logs.note_step()

    def on_train_batch_end(
        self, trainer: Any, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Logs the numbers about freezing."""
        pace = trainer.log_every_n_steps
        if self._logs is not None and pace and trainer.global_step % pace == 0:
            pl_module.log_dict(self._logs.numbers())

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        """Measures no more."""
        if self._logs is not None:
            self._logs.end()

    def _check(self, trainer: Any) -> None:
        others = [
            type(each).__name__ for each in trainer.callbacks if isinstance(each, BaseFinetuning)
        ]
        if others:
            raise ValueError(
                f"{' and '.join(others)} cannot be used beside SmartFRZCallback, because both "
                "decide which layers train. Use one of them: with a budget, SmartFRZCallback "
                "trains the head of a pretrained network alone at first."
            )
        count = len(trainer.optimizers)
        if self.optimizer is None and count > 1:
            raise ValueError(
                f"There are {count} optimizers: pass the index of that before whose steps layers "
                "freeze, as in SmartFRZCallback(budget=0.7, optimizer=0)."
            )

    def _module_called(self, called: CalledModules) -> str:
        """Returns the name of the module that the first batches called, or of the one chosen."""
        names = list(called.inputs) if self.module is None else [self.module]
        if len(names) == 1 and names[0] in called.inputs:
            return names[0]
        raise ValueError(
            f"training_step calls the modules {[*called.inputs]}: pass the name of that whose "
            "layers may freeze, as in SmartFRZCallback(budget=0.7, module='net'). An inner module "
            "that is called by one of these can freeze together with it only."
        )

    def _restore(self, saved: dict[str, Any], trainer: Any, pl_module: LightningModule) -> None:
        if saved:
            self._steps_before = saved["steps_before"]
            self._name = saved["module"]
            self._inputs = on_device_of(pl_module, saved["inputs"])
            self._start(trainer, pl_module).load_state_dict(saved["freezer"])

    def _start(self, trainer: Any, pl_module: LightningModule) -> Freezer:
        total_steps = _total_steps(trainer) - self._steps_before
        self.freezer = Freezer(
            pl_module.get_submodule(self._name),
            trainer.optimizers,
            None if trainer.fast_dev_run else self._make_policy(total_steps),
            total_steps=total_steps,
            example_inputs=self._inputs,
        )
        if self._logs is not None:
            self._logs.end()
        self._logs = FreezingLogs(self.freezer)
        return self.freezer


def _saved_in(checkpoint: Path, key: str) -> dict[str, Any]:
    """Returns a callback's state in a checkpoint, a file or the folder of a distributed one."""
    file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    content = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    return content["callbacks"].get(key, {})


def _steps(trainer: Any) -> int:
    """Returns how often each optimizer has stepped."""
    return trainer.global_step // len(trainer.optimizers)


def _total_steps(trainer: Any) -> int:
    """Returns how often each optimizer steps in the whole run.

    Raises:
        ValueError: that is not known.
    """
    steps = trainer.estimated_stepping_batches
    if trainer.max_steps > 0:  # it counts the steps of all optimizers
        steps = min(steps, trainer.max_steps // len(trainer.optimizers))
    if not 0 < steps < math.inf:
        raise ValueError(
            "The number of steps of the run is not known: pass max_steps, or max_epochs and a data "
            "loader that has a length, to the Trainer."
        )
    return int(steps)
