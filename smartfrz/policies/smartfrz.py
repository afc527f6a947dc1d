"""The SmartFRZ policy: freezing by the attention-based predictor (Sections 3.1-3.3)."""

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from smartfrz.graph import Inputs
from smartfrz.layers import Layer
from smartfrz.optimizers import learning_rates
from smartfrz.policies.budget_plan import BudgetPlan
from smartfrz.policies.guard import Guard
from smartfrz.policies.intervals import checked_interval
from smartfrz.policies.probe_cost import check_batch_size, probe_cost
from smartfrz.predictor import (
    ENCODINGS,
    AttentionPredictor,
    IncrementalPredictor,
    OutputRecords,
    deciding_layers,
)

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer


MOST_RECORDS = 40
"""In a run with a budget: more of them cost compute and say little more."""

MOST_DECISIONS = 400
"""Of more decisions, every second one's probabilities are forgotten."""


class SmartFRZ:
    """Policy: freezes the layers that the predictor classifies as converged.

    Source: Sections 3.1-3.3. Every ``interval`` steps, the tailored weights of all layers that
    still train are recorded. Every ``records_per_decision`` records, in a freezing stage, one
    batched call of the predictor decides about all of these layers. The paper leaves both numbers
    open; the bundled predictor was trained on 2 to 10 records per epoch.

    With a cumulative encoding, such as ``"drift"`` of the bundled predictor, a layer freezes only
    if all preceding layers are frozen, too. A layer's output cannot have converged before its input
    has, and a frozen norm, whose running statistics are fixed, fails on an input that keeps
    changing.

    An embedding freezes together with the layer behind it, see `deciding_layers`.

    A plateau at the start of a run looks like convergence. The predictor therefore freezes nothing
    before a layer has ``min_records`` records, nor at a record since which no layer has moved, as
    when a `GradScaler` skips steps or a warmup starts at zero; such records are not counted. A
    `Guard` recognises longer plateaus by the gradients of successive batches, and thaws layers when
    the task changes.

    With a ``budget``, the run spends that fraction of full training's compute (not in the paper,
    whose threshold means something else in every workload). A plan says how many layers train
    when, see `BudgetPlan`. The predictor may freeze layers earlier, as far as no budget is left
    over.

    Args:
        predictor: the trained predictor; it determines the ``window`` and ``size`` of the history.
        interval: steps between two records. With a budget they are further apart if a run of
            ``total_steps`` would have more than 40 records.
        records_per_decision: records between two decisions.
        threshold: probability above which to freeze; by default the predictor's own threshold.
        min_records: records of a layer before the first decision about it. With the default, the
            times to which the encoding ``"drift"`` looks back, from the start of the run to the
            last record but one, all differ for the first time.
        budget: the fraction of full training's compute that the run spends, in (0, 1].
        guard: whether a `Guard` may postpone the predictor's decisions and take them back.
        total_steps: the number of optimizer steps of the run, which a budget requires. It may be
            changed later: the plan follows it.
        probe: batches of inputs of the model, on its device, for a predictor that compares the
            outputs of the layers (encoding ``"outputs"``). Each record takes a forward pass of
            them, in every process, which counts as compute spent.
        batch_size: the number of examples of an optimizer step, in all processes together. With a
            probe it is required: it says what an example of the probe costs, in steps.

    Attributes:
        probabilities: steps of decisions with the probability of each layer by name; of long runs,
            not those of all decisions.

    Raises:
        ValueError: ``interval``, ``records_per_decision`` or ``min_records`` is less than 1, the
            predictor needs a probe and there is none, or the other way round, a probe was given
            without ``batch_size`` or a budget without ``total_steps``, or, when the freezer is
            made, the budget is out of reach.
    """

    def __init__(
        self,
        predictor: AttentionPredictor,
        interval: int,
        records_per_decision: int = 1,
        threshold: float | None = None,
        min_records: int = 10,
        budget: float | None = None,
        total_steps: int | None = None,
        guard: bool = True,
        probe: Iterable[Inputs] = (),
        batch_size: int | None = None,
    ) -> None:
        self.predictor, self.probe = predictor, list(probe)
        if predictor.reads_outputs != bool(self.probe):
            raise ValueError(
                "This predictor compares the outputs of the layers, on a probe: pass batches of "
                "inputs, for example probe=[inputs[:32]]."
                if predictor.reads_outputs
                else "This predictor reads weights alone and needs no probe: leave it out, or "
                "pass a predictor with the encoding 'outputs'."
            )
        check_batch_size(self.probe, batch_size)
        self.batch_size = batch_size
        self.interval = checked_interval(interval)
        if budget is not None and total_steps is not None:
            self.interval = max(self.interval, total_steps // MOST_RECORDS)
        self.records_per_decision = checked_interval(records_per_decision)
        self.threshold = predictor.threshold if threshold is None else threshold
        if min_records < 1:
            raise ValueError(f"min_records must be at least 1, not {min_records}.")
        self.min_records = min_records
        if budget is not None and total_steps is None:
            raise ValueError(
                "A budget requires total_steps: pass the number of optimizer steps of the run."
            )
        self.plan = (
            None if budget is None or total_steps is None else BudgetPlan(budget, total_steps)
        )
        self._total_steps = total_steps
        self._records = IncrementalPredictor(predictor)
        self._guard = Guard(self.interval * records_per_decision) if guard else None
        self.probabilities: list[tuple[int, dict[str, float]]] = []
        self._freezer: Freezer | None = None
        self._record_cost = 0.0

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole run, if known; the plan follows it."""
        return self._total_steps if self.plan is None else self.plan.total_steps

    @total_steps.setter
    def total_steps(self, total_steps: int) -> None:
        if self.plan is None:
            self._total_steps = total_steps
        else:
            self.plan.total_steps = total_steps

    def attach(self, freezer: "Freezer") -> None:
        """Plans how to spend the budget, and takes the model and the optimizer of the freezer.

        Called by `Freezer`.

        Raises:
            ValueError: the budget is out of reach.
        """
        self._freezer = freezer
        if self.probe:
            rates = partial(learning_rates, freezer.optimizer)
            records = OutputRecords(freezer.model, self.probe, rates)
            self._records = IncrementalPredictor(self.predictor, records)
            self._record_cost = probe_cost(freezer, self.probe, self.batch_size)
        if self.plan is not None:
            self.plan.attach(freezer, self._record_cost / self.interval)

    @property
    def extra_compute(self) -> float:
        """The compute of the probe's forward passes so far, in steps with no layer frozen."""
        return self._record_cost * self._records.history.count

    def is_due(self, step: int) -> bool:
        """Whether layers may freeze at this step."""
        return self._is_stage(step) or (self.plan is not None and self.plan.is_due(step))

    def layers_to_thaw(self, frozen: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers that the plan thaws, and those that the predictor froze too early."""
        if self.plan is not None and (thawed := self.plan.layers_to_thaw(frozen, step)):
            return thawed
        if self._guard is None or not self._is_stage(step):
            return []
        return self._guard.wrongly_frozen(frozen)

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers that the predictor or the plan of the budget selects."""
        if self._freezer is None and (self.plan is not None or self.probe):
            raise ValueError(
                "A budget or a probe needs a Freezer: pass the policy to one before it is called."
            )
        if self.plan is not None and self.plan.trains_head_alone(step):
            return self.plan.layers_to_freeze(active, step)
        converged = chosen = self._converged(active, step)
        if self.plan is None:
            self._warn_if_idle(active, step)
        else:
            chosen = self.plan.layers_to_freeze(active, step, converged)
        if self._guard is not None:
            self._guard.note_frozen(layer for layer in chosen if layer in converged)
        return chosen

    def _is_stage(self, step: int) -> bool:
        return step % (self.interval * self.records_per_decision) == 0

    def _converged(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers that the predictor classifies as converged, if a decision is due."""
        if self._guard is not None:
            self._guard.observe(active, step)
        if step % self.interval:
            return []
        candidates = [layer for layer in active if not layer.is_head]
        if not candidates:
            return []
        self._records.record(candidates)
        if not self._is_stage(step):
            return []
        probabilities = self._records.freeze_probability()
        names = [layer.name for layer in candidates]
        self._note_probabilities(step, dict(zip(names, probabilities.tolist(), strict=True)))
        if self._guard is not None and not self._guard.permits_freezing:
            return []
        converged = probabilities > self.threshold
        converged &= self._records.counts >= self.min_records
        converged &= self._records.history.has_moved
        converged = converged[deciding_layers(candidates)]
        if ENCODINGS[self.predictor.encoding].cumulative:
            converged = converged.cumprod(dim=0)
        return [
            layer for layer, freeze in zip(candidates, converged.tolist(), strict=True) if freeze
        ]

    def _note_probabilities(self, step: int, probabilities: dict[str, float]) -> None:
        if len(self.probabilities) == MOST_DECISIONS:
            self.probabilities = self.probabilities[::2]
        self.probabilities.append((step, probabilities))

    def _warn_if_idle(self, active: Sequence[Layer], step: int) -> None:
        """Warns in the middle of a run of known length if nothing has been frozen by then."""
        total = self.total_steps or (self._freezer and self._freezer.total_steps)
        if total and step == total // 2 and self._freezer and not self._freezer.events:
            # Without numbers, so that Python shows it once for many runs.
            warnings.warn(
                "No layer has been frozen in the first half of the run, because no probability "
                "has exceeded the threshold. To save compute, lower it, or pass a budget and "
                "total_steps instead.",
                stacklevel=5,
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the recorded history, the plan, and what the guard has seen."""
        parts = {"guard": self._guard, "plan": self.plan}
        states = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return {
            **self._records.state_dict(),
            **states,
            "probabilities": [(step, dict(values)) for step, values in self.probabilities],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._records.load_state_dict(state)
        self.probabilities = [(step, dict(values)) for step, values in state["probabilities"]]
        if self._guard is not None and "guard" in state:
            self._guard.load_state_dict(state["guard"])
        if self.plan is not None and "plan" in state:
            self.plan.load_state_dict(state["plan"])
