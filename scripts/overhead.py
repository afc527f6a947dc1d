"""Measures what SmartFRZ itself costs: ``python -m scripts.overhead --scale small``."""

import argparse
import dataclasses
from pathlib import Path

from experiments import figures_of_layers, overhead
from experiments.compute import steps_per_epoch
from experiments.config import RunConfig, SmartFreezing
from experiments.measured import Measurement, measured, measured_once, where_and_when
from experiments.needs import check_needs
from experiments.plan import SCALES, load_spec, plan
from experiments.setup import device_and_rank
from scripts.cli import run_command
from scripts.dry import print_todo
from scripts.figure import network_on_data, write
from smartfrz.predictor import AttentionPredictor


def main() -> None:
    """Reads the command line, measures unless that is done, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    folder = options.results / f"overhead-{options.scale}"
    config = next(
        each
        for each in plan(load_spec("table2"), options.scale)
        if isinstance(each.options, SmartFreezing)
    )
    if options.dry:
        done = measured(folder, config.id) is not None
        print(f"{'Timed already' if done else 'To be timed'}: {network_on_data(config)}.")
        print_todo([] if done else [config], [], options.results / "runs")
        return
    command = f"make overhead SCALE={options.scale}"
    made = measured_once(folder, config.id, command, lambda: measure(config))
    table = overhead.table(made.frames["quantities"])
    caption = overhead.caption(made.frames["by_layers"], network_on_data(config), config)
    text = f"{table}\n\n{caption} {where_and_when(made.facts)}"
    write(folder, "overhead", figures_of_layers.time_by_layers(made.frames["by_layers"]), text)
    print(f"To measure again, delete {folder}.")


def measure(config: RunConfig) -> Measurement:
    """Counts and times everything for one of Table 2's runs."""
    check_needs([config])
    assert isinstance(config.options, SmartFreezing)
    predictor = AttentionPredictor.from_pretrained(config.options.predictor)
    print("Timing SmartFRZ beside the training of", network_on_data(config))
    times = overhead.training_times(config, predictor)
    print("Timing it for networks of", *overhead.LAYER_COUNTS, "layers")
    by_layers = overhead.time_by_layers(predictor, overhead.LAYER_COUNTS, device_and_rank()[0])
    whole = dataclasses.replace(config, train_images=0)
    quantities = overhead.quantities(
        predictor, times, config.options, steps_per_epoch(config), steps_per_epoch(whole)
    )
    return Measurement(times, {"quantities": quantities, "by_layers": by_layers})


if __name__ == "__main__":
    run_command(main)
