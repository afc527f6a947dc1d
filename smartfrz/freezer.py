"""The freezing mechanism: changes to a model and its optimizer, for any policy."""

import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property, partial, wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from smartfrz.accumulation import UpdateWatch
from smartfrz.compilation import expect_recompilation
from smartfrz.cost import StepCosts, compute_spent, extra_compute
from smartfrz.decisions import decide, warn_if_early
from smartfrz.distributed import rebuild_reducer, share_buffers
from smartfrz.freezing import freeze_layer, thaw_layer
from smartfrz.graph import Inputs
from smartfrz.inspect import StepTimes, plot, record_of, run_of, table
from smartfrz.layers import (
    Layer,
    check_layers_in,
    check_something_trains,
    find_layers,
    refreshed,
)
from smartfrz.optimizers import check_supported
from smartfrz.sharding import check_not_flattened, reshard, sharded_modules
from smartfrz.watches import Watches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from smartfrz.policies.protocol import Policy


class Freezer:
    """Freezes layers of a model during training.

    Call `step` after ``backward`` and before ``optimizer.step``:

        loss.backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()

    A frozen layer's weights and its norms' running statistics never change again. Its parameters
    have ``requires_grad=False``, ``grad=None`` and no optimizer state, and its norms stay in eval
    mode even after ``model.train()``. Param groups keep their number, order and parameters.

    With gradient accumulation, call `step` once for each optimizer step, after the last backward
    pass. Calls have no effect within Accelerate's ``accumulate`` and DDP's ``no_sync``, and without
    the gradient synchronisation of FSDP2.

    With several processes, all of them freeze the layers that rank 0 selects, and
    ``DistributedDataParallel`` (default process group) and FSDP2 (``fully_shard``) no longer
    communicate the gradients of frozen parameters; the model may be wrapped or sharded before or
    after the freezer is created. Code compiled by ``torch.compile`` is recompiled after each
    freeze; see `Gathered`.

    Reentrant activation checkpointing above a frozen prefix silently loses gradients
    (transformers#21381). `step` detects this and raises an error; pass ``use_reentrant=False``.
    Hooks that extend the backward pass into a frozen prefix (``enable_input_require_grads``) are
    removed, or `step` warns where reentrant checkpointing needs them.

    Args:
        model: the model to train; it may be wrapped in DDP, sharded by FSDP2 or compiled.
        optimizer: the model's optimizer, or several in a list, such as Muon and AdamW.
        policy: the policy that selects layers to freeze; ``None`` for full training.
        layers: the layers, the head included; by default ``find_layers(model, example_inputs)``.
        total_steps: the number of optimizer steps of the run, if known: `step` then warns when all
            layers but the heads are frozen in its first quarter, unless at step 0.
        example_inputs: inputs for the model, as in `find_layers`, with which the compute is
            counted, too; guessed by default.

    Attributes:
        frozen: maps the name of each frozen layer to the step, from 0, at which it was frozen.
        layers: all layers, the head included.
        events: all freezes and thaws so far: ``(step, "freeze" or "thaw", name of the layer)``. A
            layer that freezes at a step is not updated by it; one that is thawed at a step is
            trained by it.
        step_times: the time that steps take, which `print` compares with their compute.

    Raises:
        ValueError: no parameter would train if all layers but the head were frozen, the layers are
            not the model's, the optimizer is ``LBFGS``, the model is wrapped by FSDP1, or the
            policy has to spend a compute that it cannot reach.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        policy: "Policy | None" = None,
        layers: Iterable[Layer] | None = None,
        total_steps: int | None = None,
        example_inputs: Inputs | None = None,
    ) -> None:
        check_supported(optimizer)
        self.model, self.optimizer, self.policy = model, optimizer, policy
        self.layers = find_layers(model, example_inputs) if layers is None else list(layers)
        self.total_steps = total_steps
        self._example_inputs = example_inputs
        self.frozen: dict[str, int] = {}
        self.events: list[tuple[int, str, str]] = []
        self.step_times = StepTimes()
        self._step = 0
        self._has_stepped = False
        self._watches = Watches(model, optimizer)
        self._updates = UpdateWatch(model, optimizer)
        self._refresh_layers()
        check_layers_in(model, self.layers)
        check_something_trains(model, self.layers)
        attach = getattr(policy, "attach", None)
        if attach is not None:
            attach(self)

    def __str__(self) -> str:
        """A table of the layers, the compute so far, and what keeps freezing from saving time."""
        return table(run_of(self))

    def plot(self) -> "Figure":
        """Draws the layers' probabilities and freezes over time, and the compute spent.

        Returns:
            The figure; ``figure.savefig("freezing.png")`` writes it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return plot(run_of(self))

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        return self._step

    @cached_property
    def costs(self) -> StepCosts:
        """What a step costs with some layers frozen, counted once.

        If the model is sharded by ``fully_shard``, all processes must read it the first time.
        """
        return StepCosts(self.model, self.layers, self._example_inputs)

    @property
    def compute_spent(self) -> float:
        """The compute of the run and of the policy so far, in steps with no layer frozen."""
        costs = partial(self.costs, input_gradients=self.input_gradients_are_computed)
        return compute_spent(self.events, self._step, costs) + extra_compute(self.policy)

    @property
    def input_gradients_are_computed(self) -> bool:
        """Whether the backward pass reaches inputs of the model or other tensors in front of it."""
        return self._watches.input_gradients.are_computed

    def step(self) -> list[Layer]:
        """Queries the policy, freezes the layers that it selects, and thaws those that it releases.

        Returns:
            The newly frozen layers, in execution order.

        Raises:
            RuntimeError: reentrant activation checkpointing lost gradients after the last freeze,
                or the optimizer changed frozen weights.
            ValueError: modules or parameters of the layers were replaced by others.
        """
        if not self._has_stepped:
            self._begin()
        self._undo_changes_by_others()
        self._watches.check(self.layers, self._frozen)
        if not self._updates.is_next():
            return []
        self.step_times.note(len(self.events))
        thawing: list[Layer] = []
        newly: list[Layer] = []
        if self.policy is not None:
            thawing, newly = decide(self.policy, self.layers, self._active, self._step)
        if newly:
            self._freeze(newly)
            warn_if_early(self._active, self._step, self.total_steps)
        self._step += 1
        if thawing:
            self.thaw(thawing)  # they train in the step that begins now
        if newly:
            self._watches.watch_buffers(self._frozen)
        return newly

    def step_before(self, optimizer: Optimizer) -> None:
        """Calls `step` before each step of an optimizer, where a script hides these in a function.

        With a `GradScaler`, nothing happens at steps that it skips.

        Args:
            optimizer: the optimizer, whose method ``step`` is replaced.
        """
        # A hook could not freeze layers: the hooks may not change while they are called.
        step = optimizer.step

        @wraps(step)
        def freeze_and_step(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            self.step()
            return step(*args, **kwargs)

        # Schedulers expect a method.
        optimizer.step = MethodType(freeze_and_step, optimizer)  # type: ignore[method-assign]

    def thaw(self, layers: Iterable[Layer] | None = None) -> None:
        """Lets frozen layers train again, from the next forward pass on.

        Their optimizer state starts anew. The policy is queried about them again. All processes
        must thaw the same layers.

        Args:
            layers: frozen layers of this freezer; by default all of them.

        Raises:
            ValueError: one of the layers is not frozen.
        """
        layers = list(self._frozen if layers is None else layers)
        others = [layer.name for layer in layers if layer.name not in self.frozen]
        if others:
            raise ValueError(f"The layers {others} are not frozen. Frozen are: {[*self.frozen]}.")
        for layer in layers:
            thaw_layer(layer, self.model.training)
            del self.frozen[layer.name]
            self.events.append((self._step, "thaw", layer.name))
        self._watches.watch_buffers([])
        self._adapt(self._updates.find_wrappers())

    def state_dict(self) -> dict[str, Any]:
        """Returns the step, the frozen layers, events and the policy's state for ``torch.save``.

        ``python -m smartfrz.inspect`` shows what is in it.
        """
        policy_state = getattr(self.policy, "state_dict", dict)
        return {
            "step": self._step,
            "frozen": dict(self.frozen),
            "events": list(self.events),
            "policy": policy_state(),
            "decided_by": type(self.policy).__name__,
            "record": record_of(self),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the frozen layers, the step and the policy's state.

        Layers that are frozen in the state are frozen, and others are thawed. May be called before
        or after the optimizer's ``load_state_dict``, but before ``set_optimizer_state_dict``.

        Args:
            state: returned by `state_dict`.

        Raises:
            ValueError: the state contains layers that this model does not have, or it belongs to
                another policy.
        """
        ours = type(self.policy).__name__
        if state.get("decided_by", ours) != ours:
            raise ValueError(
                f"The saved state is of {state['decided_by']}, but the policy is {ours}. "
                "Resume with the policy that saved the state."
            )
        unknown = sorted(state["frozen"].keys() - {layer.name for layer in self.layers})
        if unknown:
            raise ValueError(
                f"The saved state contains the frozen layers {unknown}, but this model has no such "
                "layers. Resume with the model that was saved."
            )
        if sharded_modules(self.model):
            self._refresh_layers()
        self.thaw([layer for layer in self._frozen if layer.name not in state["frozen"]])
        self._freeze([layer for layer in self._active if layer.name in state["frozen"]])
        self.frozen = dict(state["frozen"])
        frozen_at = [(step, "freeze", name) for name, step in state["frozen"].items()]
        self.events = list(state.get("events", frozen_at))
        self._step = state["step"]
        load_policy = getattr(self.policy, "load_state_dict", None)
        if load_policy is not None:
            load_policy(state["policy"])

    def _freeze(self, layers: list[Layer]) -> None:
        if not layers:
            return
        reshard(self.model)
        check_layers_in(self.model, layers)
        wrappers = self._updates.find_wrappers()
        if any(each.broadcast_buffers for each in wrappers) or sharded_modules(self.model):
            share_buffers(module for layer in layers for module in layer.modules)
        for layer in layers:
            freeze_layer(layer, self.optimizer)
            self.frozen[layer.name] = self._step
            self.events.append((self._step, "freeze", layer.name))
        self._adapt(wrappers)

    def _adapt(self, wrappers: Iterable[DistributedDataParallel]) -> None:
        """Adapts all that depends on which layers are frozen, and the model's DDP modules."""
        reshard(self.model)  # parameters take over requires_grad when they are gathered again
        self._divide_layers()
        self._watches.restart(self._active, self._frozen)
        for wrapper in wrappers:
            rebuild_reducer(wrapper)
        expect_recompilation(self.model)

    def _begin(self) -> None:
        """Finds what was wrapped, sharded or replaced since the freezer was created."""
        if sharded_modules(self.model):
            self._refresh_layers()
        check_layers_in(self.model, self.layers)
        self._updates.find_wrappers()
        self._has_stepped = True

    def _refresh_layers(self) -> None:
        """Finds the parameters that ``fully_shard`` has put in place of those of the layers."""
        check_not_flattened(self.model)
        reshard(self.model)
        self.layers = [refreshed(layer) for layer in self.layers]
        self._divide_layers()
        self._updates.params = [p for each in self.layers if each.is_head for p in each.params]

    def _divide_layers(self) -> None:
        self._active = [layer for layer in self.layers if layer.name not in self.frozen]
        self._frozen = [layer for layer in self.layers if layer.name in self.frozen]
        self._frozen_params = [param for layer in self._frozen for param in layer.params]

    def _undo_changes_by_others(self) -> None:
        """Discards gradients of frozen layers, and thaws those that are to require one again."""
        # One pass: with many layers, this is most of the time of a step in which nothing happens.
        changed = [p for p in self._frozen_params if p.requires_grad or p.grad is not None]
        training = {param for param in changed if param.requires_grad}
        for param in changed:
            param.grad = None  # others assign gradients, such as torch.func
        if not training:
            return
        thawed = [layer for layer in self._frozen if not training.isdisjoint(layer.params)]
        warnings.warn(
            f"The frozen layers {[layer.name for layer in thawed]} train again, because "
            "requires_grad=True was set outside of the freezer. Call Freezer.thaw to do so on "
            "purpose.",
            stacklevel=3,
        )
        self.thaw(thawed)
