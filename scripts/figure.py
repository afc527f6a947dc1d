"""Makes a figure of what layers do: ``python -m scripts.figure fig3 --scale small``."""

import argparse
import dataclasses
import hashlib
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from safetensors.torch import save
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
from experiments.execute import execute, is_finished, run_file
from experiments.histories import is_recorded, load_history
from experiments.measured import Measurement, counted, measured_once, where_and_when
from experiments.needs import check_needs
from experiments.plan import SCALES, load_spec, plan
from experiments.results import read_run, runs_to_frame, write_text_atomic
from experiments.series import missing_prerequisites, run_series
from experiments.tables import display_name
from scripts.cli import run_command
from scripts.histories import record_all
from smartfrz.predictor import AttentionPredictor

EPOCHS_BEFORE = 1
"""How long a network trains before its gradients are looked at (Figure 3)."""


def main() -> None:
    """Reads the command line, measures what is missing, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--predictor", help="whose attention it is; by default the bundled one's")
    options = parser.parse_args()
    folder = options.results / f"{options.figure}-{options.scale}"
    figure, caption = FIGURES[options.figure](options, folder)
    write(folder, options.figure, figure, caption)


def write(folder: Path, name: str, figure: Figure, text: str) -> None:
    """Writes a figure and its caption beside the CSV files, and shows what there is."""
    figures.save(figure, folder / name)
    write_text_atomic(folder / f"{name}.md", f"![{name}]({name}.png)\n\n{text}\n")
    print(text)
    print("\n".join(str(file) for file in sorted(folder.iterdir())))


def fig3(options: argparse.Namespace, folder: Path) -> tuple[Figure, str]:
    """The gradients of all weights against the sampled."""
    command = f"make fig3 SCALE={options.scale}"
    config, *_ = plan(load_spec("fig3"), options.scale)

    def measure() -> Measurement:
        check_needs([config])
        runs = options.results / "runs"
        run_series(
            missing_prerequisites([config], runs),
            lambda each, on_step: execute(
                each, runs, command, on_step, lambda run, curves: None, keep_weights=True
            ),
        )
        with tqdm(total=EPOCHS_BEFORE * steps_per_epoch(config), desc=config.cell) as bar:
            measured = gradients.gradients_after(
                config, EPOCHS_BEFORE, lambda run, curves: bar.update()
            )
        shown = figures_of_layers.shown_layers(len(measured))[2]
        frames = {
            "layers": gradients.distances(measured),
            "histogram": gradients.histogram(measured[shown - 1]),
        }
        return Measurement({"shown": shown, "run": dataclasses.asdict(config)}, frames)

    made = measured_once(folder, [config.id, EPOCHS_BEFORE], command, measure)
    shown, layers = made.facts["shown"], made.frames["layers"]
    training = (
        f"after {counted(EPOCHS_BEFORE, 'epoch')} of training {network_on_data(config)}, "
        f"seed {config.seed}"
    )
    figure = figures_of_layers.sampled_gradients(
        layers, made.frames["histogram"], f"Layer {shown} of {len(layers)}"
    )
    text = gradients.caption(layers, shown, training)
    return figure, f"{text} {where_and_when(made.facts)}"


def fig4(options: argparse.Namespace, folder: Path) -> tuple[Figure, str]:
    """CKA of layers while they train, and when it stabilises."""
    command = f"make fig4 SCALE={options.scale}"
    configs = plan(load_spec("fig4"), options.scale)
    tolerance = label_tolerance(options.scale)

    def measure() -> Measurement:
        record_all(configs, options.results / "runs", command)
        histories = [(config, load_history(config)) for config in configs]
        curves = [stabilisation.cka_curves(*each) for each in histories]
        layers = pd.concat([stabilisation.stable_epochs(*each, tolerance) for each in histories])
        frames = {
            "curves": pd.concat(curves),
            "layers": layers,
            "order": stabilisation.front_first(layers),
        }
        return Measurement({"tolerance": tolerance, "runs": [c.id for c in configs]}, frames)

    inputs = [[config.id for config in configs], tolerance]
    made = measured_once(folder, inputs, command, measure)
    layers = made.frames["layers"]
    shown = figures_of_layers.shown_layers(layers["layer"].max())
    training = f"while training {network_on_data(configs[0])}"
    figure = figures_of_layers.cka_while_training(made.frames["curves"], layers)
    text = stabilisation.caption(layers, shown, training, tolerance)
    return figure, f"{text} {where_and_when(made.facts)}"


def fig5(options: argparse.Namespace, folder: Path) -> tuple[Figure, str]:
    """Memory as layers freeze, from runs of SmartFRZ that are made if they are missing."""
    command = f"make fig5 SCALE={options.scale}"
    configs = plan(load_spec("fig5"), options.scale)
    runs = options.results / "runs"

    def measure() -> Measurement:
        check_needs(configs)
        missing = [config for config in configs if not is_finished(config, runs)]
        sources = missing_prerequisites(missing, runs)
        run_series(
            sources + missing,
            lambda each, on_step: execute(
                each, runs, command, on_step, lambda run, curves: None, keep_weights=each in sources
            ),
        )
        records = [read_run(run_file(config, runs)) for config in configs]
        with tqdm(records, desc="replay") as bar:
            frames = [memory_over_time.memory_over_time(each) for each in bar if each]
        return Measurement({}, {"memory": pd.concat(frames)})

    made = measured_once(folder, [config.id for config in configs], command, measure)
    memory = made.frames["memory"]
    finished = runs_to_frame([run for c in configs if (run := read_run(run_file(c, runs)))])
    figures.save(figures.frozen_moments(finished), folder / "fig5b")
    figure = figures_of_layers.memory(memory)
    text = memory_over_time.caption(memory, bool(made.facts["machine"]["gpu"]))
    beside = "Beside it, in fig5b.png, when each layer froze."
    return figure, f"{text} {beside} {where_and_when(made.facts)}"


def attention_figure(options: argparse.Namespace, folder: Path) -> tuple[Figure, str]:
    """What the predictor attends to in the recorded trainings that there are."""
    command = f"make attention SCALE={options.scale}"
    configs = recorded(options.scale)
    predictor = AttentionPredictor.from_pretrained(options.predictor)
    fingerprint = hashlib.sha256(save(predictor.state_dict())).hexdigest()[:12]
    per_epoch = load_spec("table2").options["smartfrz"]["records_per_epoch"]

    def measure() -> Measurement:
        with tqdm(configs, desc="trainings") as bar:
            looks = [attention.look(predictor, each, load_history(each), per_epoch) for each in bar]
        return Measurement({"predictor": fingerprint}, attention.summary(looks))

    made = measured_once(
        folder, [[config.id for config in configs], fingerprint, per_epoch], command, measure
    )
    ages, runs, example = (made.frames[name] for name in ("ages", "runs", "example"))
    interval = attention.bootstrap_interval(runs["rise_effect"])
    figure = figures_of_layers.attention(ages, example, runs, interval)
    text = attention.caption(ages, runs, network_on_data(configs[0]))
    return figure, f"{text} {where_and_when(made.facts)}"


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


def label_tolerance(scale: str) -> float:
    """The tolerance of the label, as the predictor learns it at a scale."""
    values = load_spec("predictor").predictor
    return float(values.get(scale, {}).get("tolerance", values["tolerance"]))


def network_on_data(config: RunConfig) -> str:
    """What is trained on what."""
    return f"{display_name(config.model)} on {display_name(config.dataset)}"


FIGURES = {"fig3": fig3, "fig4": fig4, "fig5": fig5, "attention": attention_figure}


if __name__ == "__main__":
    run_command(main)
