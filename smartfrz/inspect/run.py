"""What there is to know about a run: of a freezer, or of its state in a checkpoint."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from smartfrz.cost import compute_spent
from smartfrz.inspect.remarks import trained_front, wasted_compute
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
        remarks: why freezing saves less here than it could, in sentences.
    """

    layers: list[LayerFacts]
    steps: int
    events: Events
    probabilities: Sequence[tuple[int, dict[str, float]]]
    step_costs: list[float]
    compute_spent: float | None
    remarks: list[str] = field(default_factory=list)

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
        "remarks": run.remarks,
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
        remarks=record["remarks"],
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
    sets = _frozen_sets(freezer.events) if is_counted else []
    step_costs = [freezer.costs(each) for each in sets]
    return Run(
        layers,
        freezer.steps,
        list(freezer.events),
        getattr(freezer.policy, "probabilities", ()),
        step_costs,
        freezer.compute_spent if is_counted else None,
        _remarks(freezer, step_costs) if is_counted else [],
    )


def _remarks(freezer: "Freezer", step_costs: Sequence[float]) -> list[str]:
    if not freezer.frozen:
        return []
    first = freezer.layers[0]
    found = []
    if freezer.input_gradients_are_computed and first.name in freezer.frozen:
        found.append(
            "The backward pass runs through the frozen layers in front, because an input of the "
            "model or another tensor there requires a gradient."
        )
    if first.is_head:
        body = [layer.name for layer in freezer.layers if not layer.is_head]
        found += trained_front(first.name, freezer.costs(body))
    ratios = freezer.step_times.ratios(step_costs)
    if ratios is not None:
        time, compute = ratios
        found += wasted_compute("Compared with the beginning of the run", compute, time, _WAITING)
    return found


_WAITING = (
    "the device waits for something other than compute. If smartfrz.estimate, which times the "
    "model alone, promises more, that is the data loader or other code of the loop."
)


def _frozen_sets(events: Events) -> list[Collection[str]]:
    """Returns the sets of frozen layers at the beginning and after each event."""
    sets = [frozenset[str]()]
    for _, what, name in events:
        sets.append(sets[-1] | {name} if what == "freeze" else sets[-1] - {name})
    return list(sets)
