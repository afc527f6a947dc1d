"""Gradients of tensors other than parameters, for which a frozen prefix runs its backward pass."""

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils._pytree import tree_iter

from smartfrz.compilation import expect_recompilation


class InputGradients:
    """Ends the backward pass at the first layer that trains, where a hook makes it run further.

    Below that layer there is no backward pass, unless a tensor in front of it requires a gradient.
    The graph of the forward passes between `watch` and `settle` shows whether one does, and why:

    - Inputs of the model that require a gradient (adversarial training, physics-informed networks)
      and parameters outside the layers (soft prompts) need the backward pass.
    - A hook can make a frozen module's output require a gradient, as that of
      ``enable_input_require_grads`` in transformers and PEFT does (llama-cookbook#438). Nobody
      reads this gradient; it exists for reentrant checkpointing, which loses all gradients without
      it. If there are no reentrant checkpoints, such hooks are removed. All other gradients stay
      the same.
    - In all other cases `settle` warns.

    Nothing is noticed after ``model.compile()`` or ``torch.jit.script(model)``, or if the model's
    submodules are called without the model.

    Args:
        model: the model; it may be wrapped in DDP or compiled.

    Attributes:
        are_computed: whether the backward pass reaches other tensors than parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.are_computed = False
        self._is_reentrant: bool | None = None  # unknown
        self._handles: list[Any] = []
        self._inputs: set[Node] = set()
        # Without such hooks there is nothing to learn before the first freeze, and in compiled code
        # each watch costs a compilation.
        if _hooks(model):
            self.watch()

    def watch(self) -> None:
        """Removes hooks if that is known to be safe; watches the forward passes until `settle`."""
        self._end()
        self._remove_hooks()
        self._reached_input = self._reached_other = False
        if self.model._compiled_call_impl is None:
            # Modules may add their outputs to the inputs, as those of sentence-transformers do.
            self._handles = [
                self.model.register_forward_pre_hook(self._note_inputs, with_kwargs=True),
                self.model.register_forward_hook(self._note),
            ]
            # Called by TorchScript, which would compile the hook.
            vars(self.model)["__prepare_scriptable__"] = self._unwatched

    def settle(self, front_is_frozen: bool) -> None:
        """Stops watching; removes hooks or warns if the backward pass ran further than needed.

        Args:
            front_is_frozen: whether the first layer is frozen; otherwise there is no warning.
        """
        if not self._handles:
            return
        self._end()
        if self._reached_other and self._remove_hooks():
            self._reached_other = False
        self.are_computed = self._reached_input or self._reached_other
        # Inputs that require a gradient are a recipe for reentrant checkpointing as well.
        is_waste = self._reached_other or (self._reached_input and self._is_reentrant)
        if front_is_frozen and is_waste:
            warnings.warn(_warning(bool(self._is_reentrant)), stacklevel=4)

    def _remove_hooks(self) -> bool:
        """Removes the hooks, unless reentrant checkpoints may need them; returns whether it did."""
        if self._is_reentrant is not False:
            return False
        found = _hooks(self.model)
        for module, key in found:
            del module._forward_hooks[key]
        if found:
            expect_recompilation(self.model)
        return bool(found)

    def _end(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._inputs = [], set()
        vars(self.model).pop("__prepare_scriptable__", None)

    def _unwatched(self) -> nn.Module:
        self._end()
        return self.model

    def _note_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inputs = _nodes_of((args, kwargs)) if _builds_graph(module) else set()

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        if not _builds_graph(module):
            return
        inputs, self._inputs = self._inputs, set()
        graph = _graph(_nodes_of(output), inputs)
        self._reached_input |= not inputs.isdisjoint(graph)
        leaves = (getattr(node, "variable", None) for node in graph - inputs)  # AccumulateGrad
        # Also those that torch.func.functional_call puts in the place of parameters.
        weights = {id(param) for param in module.parameters()}
        self._reached_other |= any(
            isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter)
            for leaf in leaves
            if id(leaf) not in weights
        )
        is_reentrant = any("Checkpoint" in node.name() for node in graph)
        self._is_reentrant = bool(self._is_reentrant) or is_reentrant


def _builds_graph(module: nn.Module) -> bool:
    """Whether a forward pass builds a graph that can be searched."""
    return not torch.compiler.is_compiling() and module.training and torch.is_grad_enabled()


def _nodes_of(values: Any) -> set[Node]:
    """Returns the nodes of the autograd graph that belong to all tensors in nested values."""
    tensors = (leaf for leaf in tree_iter(values) if isinstance(leaf, Tensor))
    return {get_gradient_edge(tensor).node for tensor in tensors if tensor.requires_grad}


def _graph(start: Collection[Node], stop: Collection[Node]) -> set[Node]:
    """Returns the nodes that a backward pass from some nodes down to others reaches."""
    reached: set[Node] = set()
    pending = list(start)
    while pending:
        node = pending.pop()
        if node not in reached:
            reached.add(node)
            if node not in stop:
                pending += [each for each, _ in node.next_functions if each is not None]
    return reached


def _hooks(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """Returns the hooks that only make an output require a gradient: their modules and keys."""
    return [
        (module, key)
        for module in model.modules()
        for key, hook in module._forward_hooks.items()
        if _only_requires_gradient(hook)
    ]


def _only_requires_gradient(hook: Any) -> bool:
    """Whether a hook can do no more than ``output.requires_grad_()``.

    Its code uses no other attribute and no global or enclosing variable, so that it cannot keep the
    tensor for somebody who would read its gradient.
    """
    code = getattr(hook, "__code__", None)
    names = code and (*code.co_names, *code.co_freevars)
    return names in (("requires_grad_",), ("requires_grad",))


def _warning(is_reentrant: bool) -> str:
    remedy = (
        "Reentrant activation checkpointing needs such a tensor. Pass use_reentrant=False to "
        "torch.utils.checkpoint (transformers: gradient_checkpointing_kwargs), and do not make it "
        "require a gradient."
        if is_reentrant
        else "If nothing reads its gradient, remove the requires_grad_() that makes it require one."
    )
    return (
        "The backward pass runs through the frozen layers at the front of the model, and freezing "
        "them saves less than it could, because a tensor other than the parameters requires a "
        f"gradient there. {remedy}"
    )
