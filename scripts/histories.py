"""Records runs for training or evaluating predictors: ``python -m scripts.histories predictor``."""

import argparse
from pathlib import Path

from experiments.plan import plan
from experiments.predictor.recordings import record_all
from experiments.spec import SCALES, load_spec
from experiments.validation import check_asked
from scripts.cli import run_command

COMMANDS = {
    "predictor": "predictor",
    "recordings": "predictor LABEL=contribution",
    "evidence": "evidence",
}
"""For each spec, the target of make that records its runs."""


def main() -> None:
    """Parses the command line and records missing runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "spec", choices=COMMANDS, help="runs for training predictors, or for evaluating them"
    )
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--models", nargs="+", help="only these models")
    options = parser.parse_args()
    recordings = plan(load_spec(options.spec), options.scale)
    check_asked(options.models, {config.model for config in recordings}, "model")
    chosen = [c for c in recordings if not options.models or c.model in options.models]
    command = f"make {COMMANDS[options.spec]} SCALE={options.scale}"
    record_all(chosen, options.results / "runs", command)


if __name__ == "__main__":
    run_command(main)
