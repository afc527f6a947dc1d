"""Updates the result tables in the README: ``python -m scripts.readme``."""

from experiments.files import ROOT, write_text_atomic
from experiments.reporting.readme import filled
from scripts.cli import run_command


def main() -> None:
    """Writes the README with its current tables."""
    readme = ROOT / "README.md"
    write_text_atomic(readme, filled(readme.read_text(encoding="utf-8"), ROOT))


if __name__ == "__main__":
    run_command(main)
