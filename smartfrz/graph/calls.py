"""The operator calls of a traced forward pass, and the flow of data between them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

Owner = TypeVar("Owner")

Source = int | Tensor | None
"""Source of an argument: an earlier call (its index), a parameter or buffer, or None (external)."""


@dataclass(frozen=True)
class Product:
    """A product of two operands in a call, or a normalisation (``is_norm``) with its weight.

    Attributes:
        macs: multiply-accumulates of the forward pass; a normalisation counts 2 per element.
        operands: the sources of each of the two operands.
        is_norm: whether this is a normalisation.
    """

    macs: int
    operands: tuple[tuple[Source, ...], tuple[Source, ...]]
    is_norm: bool = False


@dataclass(frozen=True)
class Call:
    """One operator call of the forward pass; the last one, ``output``, is the return value.

    Attributes:
        name: the operator's name.
        inputs: the sources of all tensors among its arguments.
        products: the products and normalisations that it computes.
        differentiable: the inputs to which a gradient of the result is passed on. None of them if
            the tensor is detached or the result is of integers.
    """

    name: str
    inputs: tuple[Source, ...]
    products: tuple[Product, ...]
    differentiable: tuple[Source, ...]


def last_owners(calls: Sequence[Call], owner_of: Mapping[Tensor, Owner]) -> set[Owner]:
    """Returns the owners of weights with no other owner's weights after them.

    Another owner comes after a use of a weight if a weight of that owner, or a tensor computed from
    such weights alone (as in weight normalisation), meets the result or anything differentiable
    that is computed from it. After a use that reaches the model's output, only operators that reach
    it, too, are considered.

    Args:
        calls: from `trace`.
        owner_of: maps weights to their owners.

    Returns:
        The owners of all uses after which no other owner comes, which include the owner of the
        weight that is used last. Empty if no weight is used.
    """
    uses: list[tuple[Owner, int]] = []  # the owner and the call of each use
    depends_on: list[int] = []  # per call: the uses that its result depends on, as bits
    is_constant: list[bool] = []  # per call: whether it is computed from parameters alone
    bits_of: dict[Owner, int] = {}
    followed = {True: 0, False: 0}  # the uses after which another owner comes, by liveness
    is_live = _reach_output(calls, "inputs")
    has_gradient = _reach_output(calls, "differentiable")
    for index, call in enumerate(calls):
        owners = dict.fromkeys(
            owner_of[each]
            for each in call.differentiable
            if isinstance(each, Tensor) and each in owner_of
        )
        before = [each for each in call.differentiable if isinstance(each, int)]
        depends = _union(depends_on[each] for each in before)
        weights = _union(depends_on[each] for each in before if is_constant[each])
        meeting = owners or [owner for owner, bits in bits_of.items() if bits & weights]
        if meeting:
            others = depends & ~_union(bits_of.get(owner, 0) for owner in meeting)
            followed[False] |= others
            followed[True] |= others if is_live[index] else 0
        for owner in owners:
            bits_of[owner] = bits_of.get(owner, 0) | 1 << len(uses)
            depends |= 1 << len(uses)
            uses.append((owner, index))
        depends_on.append(depends)
        is_constant.append(all(_is_constant(each, is_constant) for each in call.inputs))
    last = {owner for owner, _ in uses[-1:]}
    for bit, (owner, index) in enumerate(uses):
        # A constant that is not used, such as a view of a weight, is no use of the weight. Nor is
        # one of which a detached copy is used alone, such as DoRA's norm of the updated weight.
        is_use = has_gradient[index] or not is_constant[index]
        if is_use and not followed[is_live[index]] >> bit & 1:
            last.add(owner)
    return last


def _reach_output(calls: Sequence[Call], by: Literal["inputs", "differentiable"]) -> list[bool]:
    """Returns, for each call, whether the model's output depends on its result.

    Args:
        calls: the calls.
        by: which arguments are followed: all, or those that receive a gradient.
    """
    reaches = [False] * len(calls)
    reaches[-1] = True
    for index in reversed(range(len(calls))):
        if reaches[index]:
            for source in getattr(calls[index], by):
                if isinstance(source, int):
                    reaches[source] = True
    return reaches


def _is_constant(source: Source, is_constant: Sequence[bool]) -> bool:
    return is_constant[source] if isinstance(source, int) else source is not None


def _union(bits: Iterable[int]) -> int:
    union = 0
    for each in bits:
        union |= each
    return union
