"""The freezing mechanism: changes to a model and its optimizer, for any policy."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim import LBFGS, Optimizer

from smartfrz.compilation import expect_recompilation, is_compiled
from smartfrz.distributed import (
    agree,
    is_distributed,
    rebuild_reducers,
    share_buffers,
)
from smartfrz.frozen_weights import FrozenWeightWatch
from smartfrz.layers import Layer, find_layers, is_norm
from smartfrz.memory import GradientWatch

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

    With several processes, all of them freeze the layers that rank 0 selects, and a
    ``DistributedDataParallel`` model (default process group) no longer communicates the gradients
    of frozen parameters. Code compiled by ``torch.compile`` is recompiled after each freeze; see
    `Gathered`.

    Reentrant activation checkpointing above a frozen prefix silently loses gradients
    (transformers#21381). `step` detects this and raises an error; pass ``use_reentrant=False``.

    Args:
        model: the model to train; it may be wrapped in DDP or compiled.
        optimizer: the model's optimizer.
        policy: the policy that selects layers to freeze; ``None`` for full training.
        layers: the layers, the head included; by default ``find_layers(model)``.

    Attributes:
        frozen: maps the name of each frozen layer to the step, from 0, at which it was frozen.
        layers: all layers, the head included.

    Raises:
        ValueError: no parameter would train if all layers but the head were frozen, or the
            optimizer is ``LBFGS``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        policy: "Policy | None" = None,
        layers: Iterable[Layer] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.policy = policy
        self.layers = find_layers(model) if layers is None else list(layers)
        self.frozen: dict[str, int] = {}
        self._active = list(self.layers)
        self._step = 0
        self._watch = GradientWatch()
        self._weight_watch = FrozenWeightWatch()
        self._check_something_trains()
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "LBFGS is not supported, because it steps along earlier directions and would move "
                "frozen weights. Choose another optimizer."
            )

    def step(self) -> list[Layer]:
        """Queries the policy and freezes the layers that it selects.

        Returns:
            The newly frozen layers, in execution order.

        Raises:
            RuntimeError: reentrant activation checkpointing lost gradients after the last freeze,
                or the optimizer changed frozen weights.
        """
        self._check_gradients_survived()
        self._check_frozen_weights()
        newly = self._decide()
        if newly:
            self._freeze(newly)
            self.frozen |= {layer.name: self._step for layer in newly}
            self._watch = self._watch_gradients()
        self._step += 1
        return newly

    def state_dict(self) -> dict[str, Any]:
        """Returns the step, the frozen layers and the policy's state, for ``torch.save``."""
        policy_state = getattr(self.policy, "state_dict", dict)
        return {
            "step": self._step,
            "frozen": dict(self.frozen),
            "policy": policy_state(),
            "decided_by": type(self.policy).__name__,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Freezes the layers that are frozen in the state and restores the step and the policy.

        May be called before or after the optimizer's ``load_state_dict``.

        Args:
            state: returned by `state_dict`.

        Raises:
            ValueError: the state contains layers that this model does not have, it belongs to
                another policy, or this freezer has frozen layers that are not in the state.
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
        extra = sorted(self.frozen.keys() - state["frozen"].keys())
        if extra:
            raise ValueError(
                f"The layers {extra} are frozen in this model but not in the state. Load the state "
                "into a new freezer, before its first step."
            )
        self._freeze([layer for layer in self._active if layer.name in state["frozen"]])
        self.frozen = dict(state["frozen"])
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
        if not layers:
            return
        share_buffers(self.model, (module for layer in layers for module in layer.modules))
        for layer in layers:
            freeze_layer(layer, self.optimizer)
        self._active = [layer for layer in self._active if layer not in layers]
        self._check_frozen_weights(is_last=True)
        self._weight_watch.end()
        frozen = [layer for layer in self.layers if layer not in self._active]
        self._weight_watch = FrozenWeightWatch(self.optimizer, frozen)
        rebuild_reducers(self.model)
        expect_recompilation()

    def _watch_gradients(self) -> GradientWatch:
        # Its hooks would trigger one more compilation; compiled code has no reentrant checkpoints.
        if is_compiled(self.model):
            return GradientWatch()
        return GradientWatch(layer for layer in self._active if _has_gradient(layer))

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

    def _check_frozen_weights(self, is_last: bool = False) -> None:
        if moved := self._weight_watch.moved(is_last):
            raise RuntimeError(
                f"{type(self.optimizer).__name__} changed the frozen layers {moved}: it also "
                "updates parameters without a gradient, for example by decaying or averaging "
                "them. Use an optimizer that skips parameters whose grad is None."
            )


def freeze_layer(layer: Layer, optimizer: Optimizer) -> None:
    """Freezes one layer permanently: no gradient, no optimizer state, norms in eval mode."""
    for param in layer.params:
        param.requires_grad_(False)
        param.grad = None
        optimizer.state.pop(param, None)
    for module in layer.modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            renormalise(module)
        if is_norm(module) or _iterates(module):
            stay_in_eval(module)


def stay_in_eval(module: nn.Module) -> None:
    """Keeps a module in eval mode, even after calls of ``model.train()`` or ``update_bn``."""
    module.eval()
    # model.train() calls the train() of every submodule.
    module.train = partial(_stay, module)  # type: ignore[method-assign]
    if hasattr(module, "reset_running_stats"):
        module.reset_running_stats = partial(_stay, module)  # type: ignore[assignment]


@torch.no_grad()
def renormalise(embedding: nn.Embedding | nn.EmbeddingBag) -> None:
    """Applies ``max_norm`` to all rows now; the forward pass would apply it to each row when used.

    An embedding without ``max_norm`` is not changed.
    """
    if embedding.max_norm is not None:
        rows = torch.arange(embedding.num_embeddings, device=embedding.weight.device)
        limits = embedding.max_norm, embedding.norm_type
        torch.embedding_renorm_(embedding.weight, rows, *limits)
        embedding.max_norm = None


def _iterates(module: nn.Module) -> bool:
    """Whether a hook of the older ``spectral_norm`` updates the weight in training mode."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _has_gradient(layer: Layer) -> bool:
    return any(param.grad is not None for param in layer.params)
