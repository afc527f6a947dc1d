"""Validation of the interval between decisions."""


def checked_interval(interval: int) -> int:
    """Returns the interval; raises if it is less than 1."""
    if interval < 1:
        raise ValueError(f"An interval must be at least 1, not {interval}.")
    return interval
