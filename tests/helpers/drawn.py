"""Checks that apply to all figures."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from experiments.reporting.style import save


def assert_reproducible(draw: Callable[[], Figure], folder: Path) -> None:
    """Asserts that a figure has the same bytes if it is drawn and saved twice."""
    for name in ("a", "b"):
        save(draw(), folder / name)
    for suffix in ("png", "pdf"):
        a, b = ((folder / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
        assert a == b
