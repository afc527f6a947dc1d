"""Puts the result tables that the README names into it: ``python -m scripts.readme``."""

from experiments.files import ROOT, write_text_atomic
from experiments.reporting.readme import filled
from scripts.cli import run_command


def main() -> None:
    """Rewrites the README."""
    readme = ROOT / "README.md"
    write_text_atomic(readme, filled(readme.read_text(encoding="utf-8"), ROOT))


if __name__ == "__main__":
    run_command(main)
