"""Why freezing saves less in a model or in a run than it could, in sentences."""

_LEAST_TIED = 0.6
"""Without weight gradients a step costs two thirds; without a backward pass, a third."""
_WASTED = 0.75
"""The share of the compute saved below which the time saved is remarked upon."""
_WORTH_TIMING = 0.1
"""The least share of the compute saved for which the time saved can be told from noise."""


def trained_front(name: str, least_compute: float) -> list[str]:
    """Returns a remark on a first layer that is a head, if there is something to remark.

    Args:
        name: the first layer's name.
        least_compute: the cost of a step with all layers but the heads frozen.
    """
    if least_compute <= _LEAST_TIED:
        return []
    return [
        f"The first layer, {name}, is a head and always trains, as an embedding that shares its "
        "weights with the head does: the backward pass runs to the front, and freezing saves "
        "weight gradients only. See detach_tied_embeddings."
    ]


def wasted_compute(when: str, compute: float, time: float, advice: str) -> list[str]:
    """Returns a remark on compute that is saved without saving time, if that is the case.

    Args:
        when: the beginning of the sentence.
        compute: the compute of a step, in steps with which it is compared.
        time: its time, likewise.
        advice: what the cause may be.
    """
    saved = 1 - compute
    if saved < _WORTH_TIMING or 1 - time >= _WASTED * saved:
        return []
    return [
        f"{when}, a step saves {100 * saved:.0f}% of the compute and {100 * (1 - time):.0f}% of "
        f"the time: {advice}"
    ]
