"""What there is to know about a run: of a freezer, or of its state in a checkpoint."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from smartfrz.cost import compute_spent
from smartfrz.sharding import sharded_modules

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer

Events = Sequence[tuple[int, str, str]]


@dataclass(frozen=True)
class LayerFacts:
    """A layer of a run.

    Attributes:
        name: its name.
        parameters: the number of its parameters, ``None`` if that is not known.
        is_head: whether it always trains.
        share: its share of the forward pass, ``None`` if that was not counted.
    """

    name: str
    parameters: int | None
    is_head: bool
    share: float | None


@dataclass(frozen=True)
class Run:
    """A run until now.

    Attributes:
        layers: the layers in execution order, the heads included.
        steps: the number of steps so far.
        events: freezes and thaws, as in ``Freezer.events``.
        probabilities: the steps of the policy's decisions with the layers' probabilities, if any.
        step_costs: the compute of a step at the beginning and after each event, in steps with no
            layer frozen; empty if it was not counted.
        compute_spent: the compute so far, in steps with no layer frozen; ``None`` if not counted.
    """

    layers: list[LayerFacts]
    steps: int
    events: Events
    probabilities: Sequence[tuple[int, dict[str, float]]]
    step_costs: list[float]
    compute_spent: float | None

    @property
    def frozen(self) -> dict[str, int]:
        """The frozen layers, with the step at which each was frozen."""
        frozen: dict[str, int] = {}
        for step, what, name in self.events:
            if what == "freeze":
                frozen[name] = step
            else:
                del frozen[name]
        return frozen

    def compute_until(self, step: int) -> float:
        """Returns the compute of the first steps, in steps with no layer frozen."""
        sets = _frozen_sets(self.events)
        costs = dict(zip(sets, self.step_costs, strict=True))
        return compute_spent(self.events, step, lambda frozen: costs[frozenset(frozen)])


def run_of(freezer: "Freezer") -> Run:
    """Returns the run of a freezer until now.

    The compute is left out where it cannot be counted: if the inputs of the model cannot be
    guessed, or if it is sharded and has not been counted yet, which all processes would have to do.
    """
    if "costs" not in vars(freezer) and sharded_modules(freezer.model):
        return _run_of(freezer, is_counted=False)
    try:
        freezer.costs  # noqa: B018
    except ValueError:  # unknown inputs
        return _run_of(freezer, is_counted=False)
    return _run_of(freezer, is_counted=True)


def record_of(freezer: "Freezer") -> dict[str, Any]:
    """Returns the part of a run that is not in the rest of the freezer's state, see `run_in`.

    The compute is left out unless it has been counted already.
    """
    run = _run_of(freezer, is_counted="costs" in vars(freezer))
    return {
        "layers": [asdict(layer) for layer in run.layers],
        "step_costs": run.step_costs,
        "compute_spent": run.compute_spent,
    }


def run_in(state: dict[str, Any]) -> Run:
    """Returns the run of a state that ``Freezer.state_dict`` has returned."""
    record = state["record"]
    return Run(
        layers=[LayerFacts(**layer) for layer in record["layers"]],
        steps=state["step"],
        events=state["events"],
        probabilities=state["policy"].get("probabilities", ()),
        step_costs=record["step_costs"],
        compute_spent=record["compute_spent"],
    )


def _run_of(freezer: "Freezer", is_counted: bool) -> Run:
    layers = [
        LayerFacts(
            layer.name,
            sum(param.numel() for param in layer.params),
            layer.is_head,
            freezer.costs.share(layer.name) if is_counted else None,
        )
        for layer in freezer.layers
    ]
    return Run(
        layers,
        freezer.steps,
        list(freezer.events),
        getattr(freezer.policy, "probabilities", ()),
        [freezer.costs(each) for each in _frozen_sets(freezer.events)] if is_counted else [],
        freezer.compute_spent if is_counted else None,
    )


def _frozen_sets(events: Events) -> list[Collection[str]]:
    """Returns the sets of frozen layers at the beginning and after each event."""
    sets = [frozenset[str]()]
    for _, what, name in events:
        sets.append(sets[-1] | {name} if what == "freeze" else sets[-1] - {name})
    return list(sets)
