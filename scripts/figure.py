"""Makes a figure of what layers do: ``python -m scripts.figure fig3 --scale small``."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments import (
    attention,
    figures,
    figures_of_layers,
    gradients,
    memory_over_time,
    stabilisation,
)
from experiments.compute import steps_per_epoch
from experiments.config import RunConfig
from experiments.execute import is_finished, run_file
from experiments.histories import is_recorded, load_history
from experiments.measured import Measurement, counted, measured, measured_once, where_and_when
from experiments.names import display_name
from experiments.plan import SCALES, fingerprint, load_spec, plan, training_at
from experiments.results import read_run, runs_to_frame, write_text_atomic
from experiments.series import missing_prerequisites, run_missing
from scripts.cli import run_command
from scripts.dry import print_refusal, print_todo
from scripts.histories import record_all, to_record
from smartfrz.predictor import AttentionPredictor

EPOCHS_BEFORE = 1
"""How long a network trains before its gradients are looked at (Figure 3)."""


@dataclass(frozen=True)
class Plan:
    """How a figure is made.

    Attributes:
        configs: the runs that it is about.
        todo: what is to be run first.
        inputs: all that its measurement depends on.
        measure: does the runs and measures.
        draw: makes the figure and its caption of what was measured.
    """

    configs: list[RunConfig]
    todo: list[RunConfig]
    inputs: Any
    measure: Callable[[], Measurement]
    draw: Callable[[Measurement], tuple[Figure, str]]


def main() -> None:
    """Reads the command line, measures what is missing, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--predictor", help="whose attention it is; by default the bundled one's")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()
    options.folder = options.results / f"{options.figure}-{options.scale}"
    options.command = f"make {options.figure} SCALE={options.scale}"
    if options.dry:
        print_dry(options)
        return
    planned = FIGURES[options.figure](options)
    made = measured_once(options.folder, planned.inputs, options.command, planned.measure)
    figure, text = planned.draw(made)
    write(options.folder, options.figure, figure, f"{text} {where_and_when(made.facts)}")


def print_dry(options: argparse.Namespace) -> None:
    """The plan, and whether all that it needs is here."""
    try:
        planned = FIGURES[options.figure](options)
    except ValueError as error:
        print_refusal(error)
        return
    done = measured(options.folder, planned.inputs) is not None
    print("Measured already." if done else "To be measured.")
    print_todo(planned.configs, [] if done else planned.todo, options.results / "runs")


def write(folder: Path, name: str, figure: Figure, text: str) -> None:
    """Writes a figure and its caption beside the CSV files, and shows what there is."""
    figures.save(figure, folder / name)
    write_text_atomic(folder / f"{name}.md", f"![{name}]({name}.png)\n\n{text}\n")
    print(text)
    print("\n".join(str(file) for file in sorted(folder.iterdir())))


def fig3(options: argparse.Namespace) -> Plan:
    """The gradients of all weights against the sampled."""
    config, *_ = plan(load_spec("fig3"), options.scale)
    todo = missing_prerequisites([config], options.results / "runs")

    def measure() -> Measurement:
        run_missing([config], todo, options.results / "runs", options.command)
        with tqdm(total=EPOCHS_BEFORE * steps_per_epoch(config), desc=config.cell) as bar:
            found = gradients.gradients_after(
                config, EPOCHS_BEFORE, lambda run, curves: bar.update()
            )
        shown = figures_of_layers.shown_layers(len(found))[2]
        frames = {
            "layers": gradients.distances(found),
            "histogram": gradients.histogram(found[shown - 1]),
        }
        return Measurement({"shown": shown, "run": dataclasses.asdict(config)}, frames)

    def draw(made: Measurement) -> tuple[Figure, str]:
        shown, layers = made.facts["shown"], made.frames["layers"]
        training = (
            f"after {counted(EPOCHS_BEFORE, 'epoch')} of training {network_on_data(config)}, "
            f"seed {config.seed}"
        )
        figure = figures_of_layers.sampled_gradients(
            layers, made.frames["histogram"], f"Layer {shown} of {len(layers)}"
        )
        return figure, gradients.caption(layers, shown, training)

    return Plan([config], todo, [config.id, EPOCHS_BEFORE], measure, draw)


def fig4(options: argparse.Namespace) -> Plan:
    """CKA of layers while they train, and when it stabilises."""
    configs, runs = plan(load_spec("fig4"), options.scale), options.results / "runs"
    tolerance = training_at(options.scale, load_spec("predictor").predictor).tolerance

    def measure() -> Measurement:
        record_all(configs, runs, options.command)
        histories = [(config, load_history(config)) for config in configs]
        curves = [stabilisation.cka_curves(*each) for each in histories]
        layers = pd.concat([stabilisation.stable_epochs(*each, tolerance) for each in histories])
        frames = {
            "curves": pd.concat(curves),
            "layers": layers,
            "order": stabilisation.front_first(layers),
        }
        return Measurement({"tolerance": tolerance, "runs": [c.id for c in configs]}, frames)

    def draw(made: Measurement) -> tuple[Figure, str]:
        layers = made.frames["layers"]
        shown = figures_of_layers.shown_layers(layers["layer"].max())
        training = f"while training {network_on_data(configs[0])}"
        figure = figures_of_layers.cka_while_training(made.frames["curves"], layers)
        return figure, stabilisation.caption(layers, shown, training, tolerance)

    inputs = [[config.id for config in configs], tolerance]
    return Plan(configs, to_record(configs, runs), inputs, measure, draw)


def fig5(options: argparse.Namespace) -> Plan:
    """Memory as layers freeze, from runs of SmartFRZ that are made if they are missing."""
    configs, runs = plan(load_spec("fig5"), options.scale), options.results / "runs"
    missing = [config for config in configs if not is_finished(config, runs)]
    sources = missing_prerequisites(missing, runs)

    def measure() -> Measurement:
        run_missing(configs, sources + missing, runs, options.command)
        with tqdm(finished_runs(configs, runs), desc="replay") as bar:
            frames = [memory_over_time.memory_over_time(each) for each in bar]
        return Measurement({}, {"memory": pd.concat(frames)})

    def draw(made: Measurement) -> tuple[Figure, str]:
        memory = made.frames["memory"]
        moments = figures.frozen_moments(runs_to_frame(finished_runs(configs, runs)))
        figures.save(moments, options.folder / "fig5b")
        text = memory_over_time.caption(memory, bool(made.facts["machine"]["gpu"]))
        beside = "Beside it, in fig5b.png, when each layer froze."
        return figures_of_layers.memory(memory), f"{text} {beside}"

    return Plan(configs, sources + missing, [config.id for config in configs], measure, draw)


def attention_figure(options: argparse.Namespace) -> Plan:
    """What the predictor attends to in the recorded trainings that there are."""
    configs = recorded(options.scale)
    predictor = AttentionPredictor.from_pretrained(options.predictor)
    weights, _ = fingerprint(options.predictor)
    per_epoch = load_spec("table2").options["smartfrz"]["records_per_epoch"]

    def measure() -> Measurement:
        with tqdm(configs, desc="trainings") as bar:
            looks = [attention.look(predictor, each, load_history(each), per_epoch) for each in bar]
        return Measurement({"predictor": weights}, attention.summary(looks))

    def draw(made: Measurement) -> tuple[Figure, str]:
        ages, runs, example = (made.frames[name] for name in ("ages", "runs", "example"))
        interval = attention.bootstrap_interval(runs["rise_effect"])
        figure = figures_of_layers.attention(ages, example, runs, interval)
        return figure, attention.caption(ages, runs, network_on_data(configs[0]))

    inputs = [[config.id for config in configs], weights, per_epoch]
    return Plan(configs, [], inputs, measure, draw)


def finished_runs(configs: Iterable[RunConfig], runs: Path) -> list[dict[str, Any]]:
    """What the run files hold.

    Raises:
        ValueError: one is missing or damaged.
    """
    missing = [config for config in configs if not is_finished(config, runs)]
    if missing:
        raise ValueError(
            f"{missing[0].cell} was measured, but its run file in {runs} is missing or damaged: "
            "restore it, or delete the figure's folder to run and measure it again."
        )
    found = (read_run(run_file(config, runs)) for config in configs)
    return [run for run in found if run]


def recorded(scale: str) -> list[RunConfig]:
    """The recorded trainings that there are: of those that predictors are judged on.

    At scales without, those that predictors learn from.

    Raises:
        ValueError: there is none.
    """
    evidence = load_spec("evidence")
    name = "evidence" if scale in evidence.scales else "predictor"
    configs = [config for config in plan(load_spec(name), scale) if is_recorded(config)]
    if not configs:
        raise ValueError(
            f"No training is recorded at scale {scale}: make {name} SCALE={scale} records some."
        )
    return configs


def network_on_data(config: RunConfig) -> str:
    """What is trained on what."""
    return f"{display_name(config.model)} on {display_name(config.dataset)}"


FIGURES = {"fig3": fig3, "fig4": fig4, "fig5": fig5, "attention": attention_figure}


if __name__ == "__main__":
    run_command(main)
