"""The policy of a callback, which is made once the trainer knows the number of steps."""

from collections.abc import Callable
from functools import partial

from smartfrz.policies import Policy, SmartFRZ, check_compute
from smartfrz.predictor import AttentionPredictor

PolicyMaker = Callable[[int], Policy]
"""Makes a policy for a number of optimizer steps."""


def policy_maker(policy: Policy | PolicyMaker | None, budget: float | None) -> PolicyMaker:
    """Returns what makes the policy of a callback.

    Args:
        policy: a policy, or a function that makes one for a number of optimizer steps.
        budget: instead of a policy, the fraction of full training's compute that the run spends.

    Raises:
        ValueError: neither was given, or both, or the budget is not in (0, 1].
    """
    if (policy is None) == (budget is None):
        raise ValueError(
            "Pass either a budget, as in SmartFRZCallback(budget=0.7), or a policy, as in "
            "SmartFRZCallback(policy)."
        )
    if budget is not None:
        check_compute(budget, "budget")
        return partial(_with_budget, budget)
    assert policy is not None
    if hasattr(policy, "layers_to_freeze"):
        return lambda _: policy
    return policy


def _with_budget(budget: float, total_steps: int) -> SmartFRZ:
    predictor = AttentionPredictor.from_pretrained()
    return SmartFRZ(predictor, interval=1, budget=budget, total_steps=total_steps)
