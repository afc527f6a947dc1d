"""The freezing mechanism: changes to a model and its optimizer, for any policy."""

import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from smartfrz.accumulation import UpdateWatch, is_accumulating
from smartfrz.compilation import expect_recompilation, is_compiled
from smartfrz.distributed import (
    agree,
    is_distributed,
    rebuild_reducer,
    share_buffers,
    wrappers_of,
)
from smartfrz.freezing import discard_gradients, freeze_layer, thaw_layer
from smartfrz.frozen_buffers import FrozenBufferWatch
from smartfrz.frozen_weights import FrozenWeightWatch
from smartfrz.input_gradients import InputGradients
from smartfrz.layers import Layer, check_layers_in, find_layers
from smartfrz.memory import GradientWatch
from smartfrz.optimizers import check_supported

if TYPE_CHECKING:
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
    pass. Within Accelerate's ``accumulate`` and DDP's ``no_sync``, calls have no effect.

    With several processes, all of them freeze the layers that rank 0 selects, and
    ``DistributedDataParallel`` (default process group) no longer communicates the gradients of
    frozen parameters; the model may be wrapped before or after the freezer is created. Code
    compiled by ``torch.compile`` is recompiled after each freeze; see `Gathered`.

    Reentrant activation checkpointing above a frozen prefix silently loses gradients
    (transformers#21381). `step` detects this and raises an error; pass ``use_reentrant=False``.
    Hooks that extend the backward pass into a frozen prefix (``enable_input_require_grads``) are
    removed, or `step` warns where reentrant checkpointing needs them.

    Args:
        model: the model to train; it may be wrapped in DDP or compiled.
        optimizer: the model's optimizer, or several in a list, such as Muon and AdamW.
        policy: the policy that selects layers to freeze; ``None`` for full training.
        layers: the layers, the head included; by default ``find_layers(model)``.

    Attributes:
        frozen: maps the name of each frozen layer to the step, from 0, at which it was frozen.
        layers: all layers, the head included.
        events: all freezes and thaws so far: ``(step, "freeze" or "thaw", name of the layer)``.
        input_gradients: ``input_gradients.are_computed`` tells whether inputs receive gradients.

    Raises:
        ValueError: no parameter would train if all layers but the head were frozen, or the
            optimizer is ``LBFGS``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        policy: "Policy | None" = None,
        layers: Iterable[Layer] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.policy = policy
        self.layers = find_layers(model) if layers is None else list(layers)
        self.frozen: dict[str, int] = {}
        self.events: list[tuple[int, str, str]] = []
        self._active = list(self.layers)
        self._step = 0
        self._watch = GradientWatch()
        self._weight_watch = FrozenWeightWatch()
        self._wrappers: list[weakref.ref[DistributedDataParallel]] = []
        self._has_stepped = False
        self.input_gradients = InputGradients(model)
        self._buffer_watch = FrozenBufferWatch()
        self._check_something_trains()
        check_supported(optimizer)
        heads = (layer for layer in self.layers if layer.is_head)
        self._updates = UpdateWatch(optimizer, [param for head in heads for param in head.params])

    def step(self) -> list[Layer]:
        """Queries the policy and freezes the layers that it selects.

        Returns:
            The newly frozen layers, in execution order.

        Raises:
            RuntimeError: reentrant activation checkpointing lost gradients after the last freeze,
                the optimizer changed frozen weights, or modules or parameters of the layers were
                replaced by others.
        """
        if not self._has_stepped:
            check_layers_in(self.model, self.layers)
        discard_gradients(self._frozen_layers())
        self._check_gradients_survived()
        self._weight_watch.check()
        self._buffer_watch.end()
        self.input_gradients.settle(any(layer.name in self.frozen for layer in self.layers[:1]))
        if not self._is_followed_by_update():
            return []
        self._follow_requires_grad()
        newly = self._decide()
        if newly:
            self._freeze(newly)
            self._watch = self._watch_gradients()
            self._buffer_watch = FrozenBufferWatch(self.model, self._frozen_layers())
        self._step += 1
        return newly

    def thaw(self, layers: Iterable[Layer]) -> None:
        """Lets frozen layers train again, from the next forward pass on.

        Their optimizer state starts anew. The policy is queried about them again. All processes
        must thaw the same layers.

        Args:
            layers: frozen layers of this freezer.

        Raises:
            ValueError: one of the layers is not frozen.
        """
        layers = list(layers)
        others = [layer.name for layer in layers if layer.name not in self.frozen]
        if others:
            raise ValueError(f"The layers {others} are not frozen. Frozen are: {[*self.frozen]}.")
        for layer in layers:
            thaw_layer(layer, self.model.training)
            del self.frozen[layer.name]
            self.events.append((self._step, "thaw", layer.name))
        self._adapt()

    def state_dict(self) -> dict[str, Any]:
        """Returns the step, the frozen layers, events and the policy's state for ``torch.save``."""
        policy_state = getattr(self.policy, "state_dict", dict)
        return {
            "step": self._step,
            "frozen": dict(self.frozen),
            "events": list(self.events),
            "policy": policy_state(),
            "decided_by": type(self.policy).__name__,
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
        self.thaw([layer for layer in self._frozen_layers() if layer.name not in state["frozen"]])
        self._freeze([layer for layer in self._active if layer.name in state["frozen"]])
        self.frozen = dict(state["frozen"])
        self.events = list(state.get("events", []))
        self._step = state["step"]
        load_policy = getattr(self.policy, "load_state_dict", None)
        if load_policy is not None:
            load_policy(state["policy"])

    def _decide(self) -> list[Layer]:
        if self.policy is None:
            return []
        # Called at every step, due or not: a policy may sum gradients or set learning rates.
        chosen = [layer.name for layer in self.policy.layers_to_freeze(self._active, self._step)]
        is_due = getattr(self.policy, "is_due", None)
        if is_due is not None and not is_due(self._step):
            return []
        if is_distributed():
            chosen = agree(chosen)
        return [layer for layer in self._active if layer.name in chosen and not layer.is_head]

    def _freeze(self, layers: list[Layer]) -> None:
        check_layers_in(self.model, layers)
        wrappers = self._found_wrappers() if layers else []
        share_buffers(wrappers, (module for layer in layers for module in layer.modules))
        for layer in layers:
            freeze_layer(layer, self.optimizer)
            self.frozen[layer.name] = self._step
            self.events.append((self._step, "freeze", layer.name))
        if layers:
            self._adapt()

    def _adapt(self) -> None:
        """Adapts all that depends on which layers are frozen."""
        self._weight_watch.check(is_last=True)
        self._weight_watch.end()
        self._active = [layer for layer in self.layers if layer.name not in self.frozen]
        self._weight_watch = FrozenWeightWatch(self.optimizer, self._frozen_layers())
        for wrapper in self._found_wrappers():
            rebuild_reducer(wrapper)
        self.input_gradients.watch()
        expect_recompilation()

    def _frozen_layers(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.name in self.frozen]

    def _found_wrappers(self) -> list[DistributedDataParallel]:
        wrappers = wrappers_of(self.model)
        self._wrappers = [weakref.ref(wrapper) for wrapper in wrappers]
        return wrappers

    def _is_followed_by_update(self) -> bool:
        """Whether the optimizer is about to step, and not to accumulate further gradients."""
        if not self._has_stepped:
            self._found_wrappers()
        self._has_stepped = True
        wrappers = [wrapper for ref in self._wrappers if (wrapper := ref()) is not None]
        if is_accumulating(self.model, self.optimizer, wrappers):
            return False
        if not self._updates.has_accumulated():
            return True
        warnings.warn(
            "Freezer.step was called again before the optimizer's step, which has no effect. With "
            "gradient accumulation, call it once for each optimizer step, right before it.",
            stacklevel=3,
        )
        return False

    def _follow_requires_grad(self) -> None:
        """Thaws frozen layers whose parameters were set to require a gradient."""
        thawed = [
            layer
            for layer in self._frozen_layers()
            if any(param.requires_grad for param in layer.params)
        ]
        if thawed:
            warnings.warn(
                f"The frozen layers {[layer.name for layer in thawed]} train again, because "
                "requires_grad=True was set outside of the freezer. Call Freezer.thaw to do so on "
                "purpose.",
                stacklevel=3,
            )
            self.thaw(thawed)

    def _watch_gradients(self) -> GradientWatch:
        # Its hooks would trigger one more compilation; compiled code has no reentrant checkpoints.
        if is_compiled(self.model):
            return GradientWatch()
        trained = [each for each in self._active if any(p.grad is not None for p in each.params)]
        return GradientWatch(trained)

    def _check_something_trains(self) -> None:
        freezable = {param for layer in self.layers if not layer.is_head for param in layer.params}
        if not any(p.requires_grad and p not in freezable for p in self.model.parameters()):
            raise ValueError(
                "Every trainable parameter is in a layer that can be frozen, because none of the "
                "layers is the head. Mark one layer with is_head=True."
            )

    def _check_gradients_survived(self) -> None:
        lost = self._watch.end()
        self._watch = GradientWatch()
        if lost:
            raise RuntimeError(
                f"The layers {lost} still train but received no gradient after the layers before "
                "them were frozen, as happens with reentrant activation checkpointing. Pass "
                "use_reentrant=False to torch.utils.checkpoint (transformers: "
                "gradient_checkpointing_kwargs)."
            )
