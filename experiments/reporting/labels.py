"""Names of methods, networks and data sets as readers know them, from the registries."""

from experiments.data.registry import DATASETS
from experiments.methods import METHODS
from experiments.models.registry import NETWORKS


def display_name(name: str) -> str:
    """A method, network or data set as readers know it; ``linear t0=0.3`` keeps its setting."""
    base, space, setting = name.partition(" ")
    return (_labels().get(base) or base) + space + setting


def rank(name: str) -> int:
    """The place of a method, network or data set in tables and legends; unknown ones come last."""
    known = list(_labels())
    base = name.partition(" ")[0]
    return known.index(base) if base in known else len(known)


def _labels() -> dict[str, str]:
    return {
        name: entry.label
        for registry in (METHODS, NETWORKS, DATASETS)
        for name, entry in registry.items()
    }
