"""Display names of methods, networks and data sets, from the registries, and of metrics."""

from experiments.data.registry import DATASETS
from experiments.methods import METHODS
from experiments.models.registry import NETWORKS

_METRICS = {"matthews": "Matthews correlation", "f1": "F1"}


def display_name(name: str) -> str:
    """Returns the display name of a method, network, data set or metric.

    A setting after the name, as in ``linear t0=0.3``, is kept.
    """
    base, space, setting = name.partition(" ")
    return (_labels().get(base) or base) + space + setting


def rank(name: str) -> int:
    """Returns the position of a name in tables and legends; unknown names come last."""
    known = list(_labels())
    base = name.partition(" ")[0]
    return known.index(base) if base in known else len(known)


def _labels() -> dict[str, str]:
    in_registries = {
        name: entry.label
        for registry in (METHODS, NETWORKS, DATASETS)
        for name, entry in registry.items()
    }
    return in_registries | _METRICS
