"""The mechanism: what freezing does to a model and to its optimizer, whoever decided it."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim import LBFGS, Optimizer

from smartfrz.distributed import (
    agree,
    is_compiled,
    is_distributed,
    rebuild_reducers,
    share_buffers,
)
from smartfrz.layers import Layer, find_layers, is_norm
from smartfrz.memory import GradientWatch

if TYPE_CHECKING:
    from smartfrz.policies.protocol import Policy


class Freezer:
    """Freezes layers while a model trains.

    Call `step` after ``backward`` and before ``optimizer.step``::

        loss.backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()

    A frozen layer's weights and its norms' running statistics never change again: its parameters
    have ``requires_grad=False``, ``grad=None`` and no optimizer state, and its norms stay in eval
    mode whatever ``model.train()`` says. Param groups keep their number, order and parameters.

    Several processes: rank 0's decision holds for all, and a ``DistributedDataParallel`` model
    (default process group) no longer communicates the gradients of what is frozen. What
    ``torch.compile`` has compiled is compiled again after each freeze: see `Gathered`.

    Reentrant activation checkpointing above a frozen prefix loses gradients without a word
    (transformers#21381): `step` notices and raises. Use ``use_reentrant=False``.

    Args:
        model: the model that trains; it may be wrapped in DDP or compiled.
        optimizer: its optimizer.
        policy: what decides; ``None`` is full training.
        layers: what can be frozen, by default ``find_layers(model)``.

    Attributes:
        frozen: name of each frozen layer -> the step, counted from 0, at which it was frozen.
        layers: all layers, the head included.
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
        self._check_something_trains()
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "LBFGS takes steps along old directions, frozen weights included: choose another "
                "optimizer."
            )

    def step(self) -> list[Layer]:
        """Asks the policy and freezes what it chose.

        Returns:
            The layers frozen now, in execution order.

        Raises:
            RuntimeError: reentrant activation checkpointing lost gradients after the last freeze.
        """
        self._check_gradients_survived()
        newly = self._decide()
        if newly:
            self._freeze(newly)
            self.frozen |= {layer.name: self._step for layer in newly}
            self._watch = self._watch_gradients()
        self._step += 1
        return newly

    def state_dict(self) -> dict[str, Any]:
        """The step, the frozen layers and the policy's state, for ``torch.save``."""
        policy_state = getattr(self.policy, "state_dict", dict)
        return {
            "step": self._step,
            "frozen": dict(self.frozen),
            "policy": policy_state(),
            "decided_by": type(self.policy).__name__,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Freezes what was frozen and goes on from there; before or after the optimizer's own.

        Raises:
            ValueError: the state names layers that this model does not have, is that of another
                policy, or this freezer has frozen layers that the state does not list.
        """
        ours = type(self.policy).__name__
        if state.get("decided_by", ours) != ours:
            raise ValueError(f"The saved state is of {state['decided_by']}, the policy is {ours}.")
        unknown = sorted(state["frozen"].keys() - {layer.name for layer in self.layers})
        if unknown:
            raise ValueError(f"The saved state froze {unknown}: this model has no such layers.")
        extra = sorted(self.frozen.keys() - state["frozen"].keys())
        if extra:
            raise ValueError(f"{extra} are frozen here but not in the state: load it first.")
        self._freeze([layer for layer in self._active if layer.name in state["frozen"]])
        self.frozen = dict(state["frozen"])
        self._step = state["step"]
        load_policy = getattr(self.policy, "load_state_dict", None)
        if load_policy is not None:
            load_policy(state["policy"])

    def _decide(self) -> list[Layer]:
        if self.policy is None:
            return []
        # Asked at every step, due or not: a policy may sum gradients or set learning rates.
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
        rebuild_reducers(self.model)
        # Each freeze makes torch.compile compile again, and past its limit of 8 it would go on
        # without compiling (pytorch#139476). The code for the old set of layers is of no more use.
        torch.compiler.reset()

    def _watch_gradients(self) -> GradientWatch:
        # Its hooks would have compiled code compiled once more, and reentrant checkpoints are none.
        if is_compiled(self.model):
            return GradientWatch()
        return GradientWatch(layer for layer in self._active if _has_gradient(layer))

    def _check_something_trains(self) -> None:
        freezable = {param for layer in self.layers if not layer.is_head for param in layer.params}
        if not any(p.requires_grad and p not in freezable for p in self.model.parameters()):
            raise ValueError(
                "The layers given hold every trainable parameter and none is the head: mark one "
                "with is_head=True, so that something still trains when all others are frozen."
            )

    def _check_gradients_survived(self) -> None:
        lost = self._watch.end()
        self._watch = GradientWatch()
        if lost:
            raise RuntimeError(
                f"{lost} still train but get no gradient, now that the layers below are frozen. "
                "Reentrant activation checkpointing does this: pass use_reentrant=False to "
                "torch.utils.checkpoint (transformers: gradient_checkpointing_kwargs)."
            )


def freeze_layer(layer: Layer, optimizer: Optimizer) -> None:
    """Freezes one layer for good: no gradient, no optimizer state, norms in eval mode."""
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
    """Puts a module into eval mode, whatever ``model.train()`` or ``update_bn`` will say."""
    module.eval()
    # model.train() calls the train() of every submodule.
    module.train = partial(_stay, module)  # type: ignore[method-assign]
    if hasattr(module, "reset_running_stats"):
        module.reset_running_stats = partial(_stay, module)  # type: ignore[assignment]


@torch.no_grad()
def renormalise(embedding: nn.Embedding | nn.EmbeddingBag) -> None:
    """Scales all rows to their ``max_norm`` now, which the forward pass would do as they are used.

    Of an embedding without one nothing changes.
    """
    if embedding.max_norm is not None:
        rows = torch.arange(embedding.num_embeddings, device=embedding.weight.device)
        limits = embedding.max_norm, embedding.norm_type
        torch.embedding_renorm_(embedding.weight, rows, *limits)
        embedding.max_norm = None


def _iterates(module: nn.Module) -> bool:
    """Whether a hook of the older ``spectral_norm`` changes the weight while the module trains."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _has_gradient(layer: Layer) -> bool:
    return any(param.grad is not None for param in layer.params)
