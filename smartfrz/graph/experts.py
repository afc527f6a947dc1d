"""Experts: modules of the same structure of which a forward pass uses only some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from torch import Tensor, nn

from smartfrz.graph.calls import Call, Product, Source, last_owners


@dataclass(frozen=True)
class Experts:
    """Names of alternative modules: those that a forward pass used, and those that it did not."""

    used: tuple[str, ...]
    unused: tuple[str, ...]


def experts_of(model: nn.Module, calls: Sequence[Call]) -> Iterator[Experts]:
    """Finds experts: alternative modules, of which a traced forward pass used some.

    Experts are modules in one ``nn.ModuleList`` or ``nn.ModuleDict`` with parameters of the same
    names and shapes. None of those used computes from the output of another, unlike the blocks of
    a model that is only run up to a certain depth.

    Args:
        model: the model.
        calls: from `trace`.

    Yields:
        Groups of experts of which some were used and some were not, in order of registration.
    """
    seen = {source for call in calls for source in call.inputs if isinstance(source, Tensor)}
    for name, container in model.named_modules():
        if isinstance(container, nn.ModuleList | nn.ModuleDict):
            alike: dict[object, list[str]] = {}
            for key, child in container.named_children():
                shapes = tuple((own, each.shape) for own, each in child.named_parameters())
                alike.setdefault((type(child), shapes), []).append(f"{name}.{key}".lstrip("."))
            for names in alike.values():
                used = [each for each in names if seen & {*model.get_submodule(each).parameters()}]
                unused = [each for each in names if each not in used]
                if used and unused and _are_alternatives(model, used, calls):
                    yield Experts(tuple(used), tuple(unused))


def _are_alternatives(model: nn.Module, names: Sequence[str], calls: Sequence[Call]) -> bool:
    """Whether none of these modules computes from the output of another."""
    owner_of: dict[Tensor, str] = {
        param: name for name in names for param in model.get_submodule(name).parameters()
    }
    return last_owners(calls, owner_of) == set(names)


def shared_by_experts(model: nn.Module, calls: Sequence[Call]) -> list[Call]:
    """Returns the calls with each product of an expert shared equally by all its alternatives.

    The cost is then that of routing samples to all experts alike, whichever of them the traced
    samples were routed to. Nothing changes where all experts were used.
    """
    alternatives: dict[Tensor, list[nn.Parameter]] = {}
    for experts in experts_of(model, calls):
        every = [model.get_submodule(name) for name in (*experts.used, *experts.unused)]
        for params in zip(*(each.parameters() for each in every), strict=True):
            alternatives |= {param: list(params) for param in params}
    return [_shared(call, alternatives) for call in calls]


def _shared(call: Call, alternatives: dict[Tensor, list[nn.Parameter]]) -> Call:
    found = [each for each in call.inputs if isinstance(each, Tensor) and each in alternatives]
    if not found:
        return call
    every = tuple(param for each in found for param in alternatives[each])
    products = tuple(share for product in call.products for share in _shares(product, alternatives))
    return replace(call, products=products, differentiable=call.differentiable + every)


def _shares(product: Product, alternatives: dict[Tensor, list[nn.Parameter]]) -> Iterator[Product]:
    """Yields an equal share of a product for each expert, or the product if it is of none."""
    counts = [
        len(alternatives[s]) for op in product.operands for s in op if _is_in(s, alternatives)
    ]
    if not counts:
        yield product
        return
    for k in range(counts[0]):
        first, second = (
            tuple(alternatives[s][k] if _is_in(s, alternatives) else s for s in operand)
            for operand in product.operands
        )
        macs = product.macs * (k + 1) // counts[0] - product.macs * k // counts[0]
        yield replace(product, macs=macs, operands=(first, second))


def _is_in(source: Source, alternatives: dict[Tensor, list[nn.Parameter]]) -> TypeGuard[Tensor]:
    return isinstance(source, Tensor) and source in alternatives
