"""A policy with a fixed script, and freezing without a freezer."""

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from smartfrz import Layer


class Scripted:
    """Freezes layers by their names at given steps.

    Args:
        script: names of layers to freeze, by step.
    """

    def __init__(self, script: Mapping[int, Collection[str]]) -> None:
        self.script = script

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        return [layer for layer in active if layer.name in self.script.get(step, ())]


class ThawsToo(Scripted):
    """Freezes and thaws layers by their names at given steps, and notes what it was asked about.

    Args:
        freezes: names of layers to freeze, by step.
        thaws: names of layers to thaw, by step.
    """

    def __init__(
        self, freezes: Mapping[int, Collection[str]], thaws: Mapping[int, Collection[str]]
    ) -> None:
        super().__init__(freezes)
        self.thaws = thaws
        self.asked: list[tuple[int, list[str], list[str]]] = []
        self._frozen: list[str] = []

    def is_due(self, step: int) -> bool:
        return step in self.script or step in self.thaws

    def layers_to_thaw(self, frozen: Sequence[Layer], step: int) -> list[Layer]:
        self._frozen = [layer.name for layer in frozen]
        return [layer for layer in frozen if layer.name in self.thaws.get(step, ())]

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        self.asked.append((step, self._frozen, [layer.name for layer in active]))
        return super().layers_to_freeze(active, step)


def freeze_by_hand(model: nn.Module, layers: Collection[Layer], like: nn.Module) -> None:
    """Freezes layers of a model without a freezer, until ``model.train()`` is called.

    Args:
        model: the model.
        layers: the corresponding layers of ``like``.
        like: another model of the same architecture.
    """
    params = {param for layer in layers for param in layer.params}
    norms = {norm for layer in layers for norm in layer.norms}
    for name, param in like.named_parameters():
        if param in params:
            model.get_parameter(name).requires_grad_(False)
    for name, module in like.named_modules():
        if module in norms:
            model.get_submodule(name).eval()


def freeze(layers: list[Layer]) -> None:
    """Freezes layers without a freezer, until ``model.train()`` is called."""
    for layer in layers:
        for param in layer.params:
            param.requires_grad_(False)
        for norm in layer.norms:
            norm.eval()
