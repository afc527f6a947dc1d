"""Checking intervals between decisions."""


def checked_interval(interval: int) -> int:
    if interval < 1:
        raise ValueError(f"An interval is at least 1, not {interval}.")
    return interval
