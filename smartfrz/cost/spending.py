"""What a run has spent, from its freezes and thaws."""

from collections.abc import Callable, Collection, Iterable


def extra_compute(policy: object) -> float:
    """Returns what a policy has spent on forward passes of its own, see `Policy`."""
    return getattr(policy, "extra_compute", 0.0)


def compute_spent(
    events: Iterable[tuple[int, str, str]],
    steps: int,
    costs: Callable[[Collection[str]], float],
) -> float:
    """Returns the compute of the first steps of a run, in steps with no layer frozen.

    A layer that freezes at a step has computed its gradient there, so that the step counts in full.

    Args:
        events: freezes and thaws in their order, as in ``Freezer.events``: a layer costs less from
            the step after a ``"freeze"`` on, and the full price from the step of a ``"thaw"`` on.
        steps: the number of steps.
        costs: the cost of a step with some layers frozen, such as `StepCosts`.
    """
    spent, since = 0.0, 0
    frozen: set[str] = set()
    for step, what, name in events:
        until = min(steps, step + 1 if what == "freeze" else step)
        spent += (until - since) * costs(frozen) if until > since else 0.0
        since = until
        frozen = frozen | {name} if what == "freeze" else frozen - {name}
    return spent + (steps - since) * costs(frozen)
