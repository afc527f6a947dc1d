"""Writes the report of all results: ``python -m scripts.report --scale small``."""

import argparse
from pathlib import Path

from experiments.files import write_text_atomic
from experiments.reporting.claims.paper import paper_claims
from experiments.reporting.claims.tables import overall_claims
from experiments.reporting.full_training import full_training
from experiments.reporting.overview import overview
from experiments.reporting.report import main_table, page, report
from experiments.reporting.summary import summary
from experiments.spec import SCALES
from scripts.cli import run_command


def main() -> None:
    """Parses the command line, writes the report and its summary tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    options = parser.parse_args()
    results, scale = options.results, options.scale
    text = report(results, scale)
    files = {
        "summary.md": summary(results, scale),
        "full_training.md": full_training(results, scale),
        "headline.md": main_table(results, scale),
        "overview.md": overview(results, scale),
        "paper_claims.md": paper_claims(results, scale),
        "claims.md": overall_claims(results, scale),
        "report.md": text,
        "report.html": page(text, results),
    }
    for name, content in files.items():
        write_text_atomic(results / name, content)
    print("\n".join(str(results / name) for name in files))


if __name__ == "__main__":
    run_command(main)
