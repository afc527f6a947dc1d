"""Plans of the figures of single layers: runs, measurement and drawing of each."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import is_dry_run
from experiments.options import RecordOptions, SmartFRZOptions
from experiments.plan import fingerprint, plan, training_at
from experiments.predictor.cache import pretrained
from experiments.predictor.recordings import record_all, to_record
from experiments.reporting import figures, style
from experiments.reporting.labels import display_name
from experiments.runs.execute import is_finished, run_file
from experiments.runs.recording import is_recorded, load_history
from experiments.runs.run_files import read_run
from experiments.runs.run_frame import runs_to_frame
from experiments.runs.setup import device_and_rank
from experiments.spec import load_spec
from experiments.studies import (
    attention,
    counterfactual,
    gradients,
    memory_over_time,
    overhead,
    stabilisation,
)
from experiments.studies import figures as figures_of_layers
from experiments.studies.making import Plan, Request
from experiments.studies.measurement import Measurement, counted, measured
from experiments.tables.compute import steps_per_epoch
from experiments.tables.queue import missing_prerequisites, run_missing
from experiments.tables.requirements import check_requirements

EPOCHS_BEFORE = 1
"""Number of epochs after which the gradients are measured (Figure 3)."""


def fig3(request: Request) -> Plan:
    """Plans Figure 3: gradients of all weights and of the sampled weights."""
    config, *_ = plan(load_spec("fig3"), request.scale)
    todo = missing_prerequisites([config], request.runs)

    def measure() -> Measurement:
        run_missing([config], todo, request.runs, request.command)
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


def fig4(request: Request) -> Plan:
    """Plans Figure 4: CKA of layers during training, and the epochs at which it stabilises."""
    configs, runs = plan(load_spec("fig4"), request.scale), request.runs
    tolerance = training_at(request.scale, load_spec("predictor").predictor).tolerance

    def measure() -> Measurement:
        record_all(configs, runs, request.command)
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


def fig5(request: Request) -> Plan:
    """Plans Figure 5: memory as layers freeze; missing runs of SmartFRZ are executed."""
    configs, runs = plan(load_spec("fig5"), request.scale), request.runs
    missing = [config for config in configs if not is_finished(config, runs)]
    sources = missing_prerequisites(missing, runs)

    def measure() -> Measurement:
        run_missing(configs, sources + missing, runs, request.command)
        with tqdm(finished_runs(configs, runs), desc="replay") as bar:
            frames = [memory_over_time.memory_over_time(each) for each in bar]
        return Measurement({}, {"memory": pd.concat(frames)})

    def draw(made: Measurement) -> tuple[Figure, str]:
        memory = made.frames["memory"]
        moments = figures.frozen_moments(runs_to_frame(finished_runs(configs, runs)))
        style.save(moments, request.folder / "fig5b")
        text = memory_over_time.caption(memory, bool(made.facts["machine"]["gpu"]))
        other = "The epoch at which each layer was frozen is shown in fig5b.png."
        return figures_of_layers.memory(memory), f"{text} {other}"

    return Plan(configs, sources + missing, [config.id for config in configs], measure, draw)


def counterfactual_figure(request: Request) -> Plan:
    """Plans the costs of freezing groups of layers, beside what the labels are made from."""
    configs, runs = plan(load_spec("counterfactual"), request.scale), request.runs
    recorded = [config for config in configs if isinstance(config.options, RecordOptions)]
    executed = [config for config in configs if config not in recorded]
    missing = [
        *(config for config in recorded if not is_recorded(config)),
        *(config for config in executed if not is_finished(config, runs)),
    ]
    todo = missing_prerequisites(missing, runs) + missing

    def measure() -> Measurement:
        run_missing(configs, todo, runs, request.command)
        run_of = dict(zip(executed, finished_runs(executed, runs), strict=True))
        history_of = {config.full_training: load_history(config) for config in recorded}
        rows = [
            counterfactual.costs(run, run_of[c.full_training], history_of[c.full_training])
            for c, run in run_of.items()
            if c != c.full_training
        ]
        costs = pd.DataFrame(rows)
        frames = {"costs": costs, "correlations": counterfactual.correlations(costs)}
        return Measurement({}, frames)

    def draw(made: Measurement) -> tuple[Figure, str]:
        costs, ranked = made.frames["costs"], made.frames["correlations"]
        figure = figures_of_layers.counterfactual_costs(counterfactual.workloads(costs))
        table, finding = counterfactual.table(ranked), counterfactual.finding(ranked)
        return figure, f"{counterfactual.caption(costs)}\n\n{table}\n{finding}"

    return Plan(configs, todo, [config.id for config in configs], measure, draw)


def attention_figure(request: Request) -> Plan:
    """Plans Figure 2a: attention of the predictor in the runs recorded so far."""
    name, planned = recordings(request.scale)
    recorded = [config for config in planned if is_recorded(config)]
    configs = recorded or planned
    predictor = pretrained(request.predictor, local_files_only=is_dry_run())
    weights, _ = fingerprint(request.predictor)
    per_epoch = load_spec("table2").options["smartfrz"]["records_per_epoch"]

    def measure() -> Measurement:
        with tqdm(configs, desc="recorded runs") as bar:
            looks = [attention.look(predictor, each, load_history(each), per_epoch) for each in bar]
        return Measurement({"predictor": weights}, attention.summary(looks))

    def draw(made: Measurement) -> tuple[Figure, str]:
        ages, runs, example = (made.frames[name] for name in ("ages", "runs", "example"))
        interval = attention.bootstrap_interval(runs["rise_effect"])
        figure = figures_of_layers.attention(ages, example, runs, interval)
        return figure, attention.caption(ages, runs, network_on_data(configs[0]))

    inputs = [[config.id for config in configs], weights, per_epoch]
    if not recorded and measured(request.folder, inputs) is None:
        raise UserError(
            f"No run is recorded at scale {request.scale}: make {name} SCALE={request.scale} "
            "records the runs."
        )
    return Plan(configs, [], inputs, measure, draw)


def finished_runs(configs: Iterable[RunConfig], runs: Path) -> list[dict[str, Any]]:
    """Reads the run files.

    Raises:
        UserError: a run file is missing or damaged.
    """
    missing = [config for config in configs if not is_finished(config, runs)]
    if missing:
        raise UserError(
            f"{missing[0].cell} was measured, but its run file in {runs} is missing or damaged: "
            "restore it, or delete the figure's folder to run and measure it again."
        )
    found = (read_run(run_file(config, runs)) for config in configs)
    return [run for run in found if run]


def recordings(scale: str) -> tuple[str, list[RunConfig]]:
    """Returns the recorded runs for evaluating predictors, preceded by the name of their spec.

    At scales without them, these are the recorded runs for training predictors.
    """
    name = "evidence" if scale in load_spec("evidence").scales else "predictor"
    return name, plan(load_spec(name), scale)


def network_on_data(config: RunConfig) -> str:
    """Returns the display names of a run's network and data set."""
    return f"{display_name(config.model)} on {display_name(config.dataset)}"


def overhead_figure(request: Request) -> Plan:
    """Plans the measurement of SmartFRZ's overhead for one of Table 2's runs (Appendix C)."""
    config = next(
        each
        for each in plan(load_spec("table2"), request.scale)
        if isinstance(each.options, SmartFRZOptions)
    )

    def measure() -> Measurement:
        check_requirements([config])
        predictor = pretrained(config.options.predictor)
        print("Timing SmartFRZ and optimizer steps of", network_on_data(config))
        times = overhead.training_times(config, predictor)
        print("Timing SmartFRZ for networks of", *overhead.LAYER_COUNTS, "layers")
        by_layers = overhead.time_by_layers(predictor, overhead.LAYER_COUNTS, device_and_rank()[0])
        whole = dataclasses.replace(config, train_images=0)
        quantities = overhead.quantities(
            predictor, times, config.options, steps_per_epoch(config), steps_per_epoch(whole)
        )
        return Measurement(times, {"quantities": quantities, "by_layers": by_layers})

    def draw(made: Measurement) -> tuple[Figure, str]:
        by_layers = made.frames["by_layers"]
        table = overhead.table(made.frames["quantities"])
        caption = overhead.caption(by_layers, network_on_data(config), config)
        return figures_of_layers.time_by_layers(by_layers), f"{table}\n\n{caption}"

    return Plan([config], [], config.id, measure, draw)


FIGURES = {
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "counterfactual": counterfactual_figure,
    "attention": attention_figure,
    "overhead": overhead_figure,
}
