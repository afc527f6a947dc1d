"""One group of neighbouring layers frozen at one step, which measures what freezing it costs."""

from collections.abc import Sequence

from smartfrz import Freezer, Layer


def group_of(layers: int, group: int, groups: int) -> slice:
    """Returns which layers form a group, of groups as equal in number of layers as possible.

    Args:
        layers: number of layers, all but the heads.
        group: number of the group, from 1 at the front.
        groups: number of groups.

    Raises:
        ValueError: there is no such group, or there are fewer layers than groups.
    """
    if not 1 <= group <= groups:
        raise ValueError(f"group={group} must be from 1 to groups={groups}.")
    if layers < groups:
        raise ValueError(f"{layers} layers cannot be split into {groups} groups: use fewer groups.")
    return slice((group - 1) * layers // groups, group * layers // groups)


class FrozenGroup:
    """Policy: freezes one group of neighbouring layers at one step, and no others.

    The heads belong to no group.

    Args:
        step: the step.
        group: number of the group, from 1 at the front.
        groups: number of groups, see `group_of`.

    Raises:
        ValueError: at the attachment, see `group_of`.
    """

    def __init__(self, step: int, group: int, groups: int = 4) -> None:
        self.step, self.group, self.groups = step, group, groups

    def attach(self, freezer: Freezer) -> None:
        """Takes the group's layers from the freezer."""
        body = [layer.name for layer in freezer.layers if not layer.is_head]
        self._names = body[group_of(len(body), self.group, self.groups)]

    def is_due(self, step: int) -> bool:
        """Whether the group freezes at this step."""
        return step == self.step

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the group at its step, and nothing at others."""
        return [layer for layer in active if layer.name in self._names and step == self.step]
