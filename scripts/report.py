"""Makes one page of all results: ``python -m scripts.report --scale small``."""

import argparse
from pathlib import Path

from experiments.overview import overview
from experiments.plan import SCALES
from experiments.report import page, report
from experiments.results import write_text_atomic
from scripts.cli import run_command


def main() -> None:
    """Reads the command line, writes ``report.md``, ``report.html`` and ``overview.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results are")
    options = parser.parse_args()
    text = report(options.results, options.scale)
    write_text_atomic(options.results / "report.md", text)
    write_text_atomic(options.results / "overview.md", overview(options.results, options.scale))
    write_text_atomic(options.results / "report.html", page(text, options.results))
    print(f"{options.results / 'report.html'}\n{options.results / 'report.md'}")


if __name__ == "__main__":
    run_command(main)
