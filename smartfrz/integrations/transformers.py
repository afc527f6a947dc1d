"""Layer freezing in the Trainer of Hugging Face transformers, and in those made from it."""

import gc
import warnings
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from smartfrz.freezer import Freezer
from smartfrz.graph import Inputs
from smartfrz.integrations import requires
from smartfrz.integrations.first_inputs import note_first_inputs, on_device_of
from smartfrz.integrations.logs import FreezingLogs
from smartfrz.integrations.policies import PolicyMaker, policy_maker
from smartfrz.policies import Policy
from smartfrz.saved_state import from_text, to_text

with requires("transformers"):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler, ExportableState


class SmartFRZCallback(TrainerCallback, ExportableState):
    """Freezes layers while a ``Trainer`` trains:

        trainer = Trainer(model, args, ..., callbacks=[SmartFRZCallback(budget=0.7)])

    The layers are found with the first training batch. Freezing takes place right before the
    optimizer steps, so that gradient accumulation, clipping and mixed precision need no care. The
    Trainer's logs of the loss contain the numbers of `FreezingLogs`, too: the fraction of layers
    that are frozen, the compute spent so far, and the memory of gradients, optimizer state and
    activations.

    Checkpoints contain the freezer's state, and ``train(resume_from_checkpoint=...)`` restores it,
    also with ``restore_callback_states_from_checkpoint=False``, the default; True is an error with
    a policy, which cannot be restored from JSON. Resumed without the state, as when the callback
    was added later, freezing begins anew, and the budget is that of the steps that are left.

    After training, frozen layers keep ``requires_grad=False`` until the next call of ``train``.

    Args:
        policy: the policy, or a function that makes it for a number of optimizer steps, such as
            ``lambda steps: BudgetPlan(0.7, steps)``. A policy can be used for one run.
        budget: in place of a policy, the fraction of full training's compute that the run spends:
            `SmartFRZ` with the bundled predictor.

    Attributes:
        freezer: the freezer of the present or last run, from its first optimizer step on.

    Raises:
        ValueError: both a policy and a budget were given, or none. When training begins: see
            `Freezer`.
    """

    def __init__(
        self, policy: Policy | PolicyMaker | None = None, budget: float | None = None
    ) -> None:
        if isinstance(policy, str):
            raise ValueError(
                "A policy cannot be restored from JSON. Set "
                "restore_callback_states_from_checkpoint=False, or pass a budget in place of a "
                "policy: SmartFRZCallback restores the state of its freezer all the same."
            )
        self._budget = budget
        self._make_policy = policy_maker(policy, budget)
        self.freezer: Freezer | None = None
        self._inputs: Inputs | None = None
        self._steps_before = 0
        self._hook: RemovableHandle | None = None
        self._logs: FreezingLogs | None = None

    def state(self) -> dict[str, Any]:
        """Returns what the Trainer stores in the JSON file of a checkpoint."""
        args = {"policy": "not saved"} if self._budget is None else {"budget": self._budget}
        if self.freezer is None:
            return {"args": args, "attributes": {}}
        saved = {
            "inputs": self._inputs,
            "steps_before": self._steps_before,
            "freezer": self.freezer.state_dict(),
        }
        return {"args": args, "attributes": {}, "saved": to_text(saved)}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Restores the freezer, or waits for the first batch to find the layers with."""
        assert model is not None
        _call_first(self)
        if self._hook is not None:
            self._hook.remove()
        if self.freezer is not None:
            self.freezer.thaw()
            self.freezer = None
        # The Trainer looks for this entry when it saves, also if the checkpoint had none.
        callbacks: Any = state.stateful_callbacks
        stored = callbacks.setdefault(type(self).__name__, {})
        if state.global_step and "saved" in stored:
            saved = from_text(stored["saved"])
            self._steps_before = saved["steps_before"]
            self._inputs = on_device_of(model, saved["inputs"])
            self._start(model, optimizer, state.max_steps).load_state_dict(saved["freezer"])
            return
        self._steps_before = state.global_step
        if state.global_step:
            warnings.warn(
                "The checkpoint has no state of SmartFRZCallback. Freezing begins anew, and a "
                "budget is that of the steps that are left.",
                stacklevel=2,
            )
        self._hook = note_first_inputs(model, self._note_inputs)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Freezes layers."""
        if self.freezer is None:
            assert model is not None
            self._start(model, optimizer, state.max_steps)
        assert self.freezer is not None and self._logs is not None
        self.freezer.step()
        self._logs.note_step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the numbers about freezing to the logs of the loss."""
        if self._logs is None or logs is None or "loss" not in logs:
            return
        more = self._logs.numbers()
        logs.update(more)
        state.log_history[-1].update(more)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures no more."""
        if self._logs is not None:
            self._logs.end()

    def _note_inputs(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def _start(self, model: nn.Module, optimizer: Any, max_steps: int) -> Freezer:
        total_steps = max_steps - self._steps_before
        self.freezer = Freezer(
            model,
            optimizer,
            self._make_policy(total_steps),
            total_steps=total_steps,
            example_inputs=self._inputs,
        )
        if self._logs is not None:
            self._logs.end()
        self._logs = FreezingLogs(self.freezer)
        return self.freezer


def _call_first(callback: TrainerCallback) -> None:
    """Lets the Trainer call a callback before those that report its logs.

    A callback is not told of its Trainer, so all objects of the process are searched.
    """
    handlers = [each for each in gc.get_objects() if issubclass(type(each), CallbackHandler)]
    for handler in handlers:
        if callback in handler.callbacks:
            handler.callbacks.remove(callback)
            handler.callbacks.insert(0, callback)
