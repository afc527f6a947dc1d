"""Runs a table, cell by cell, and draws it: ``python -m scripts.table table2 --scale small``."""

import argparse
from contextlib import closing
from pathlib import Path

import pandas as pd
import torch.distributed as dist

from experiments import figures, tables
from experiments.config import RunConfig
from experiments.execute import execute, is_finished, run_file
from experiments.matching import matched
from experiments.plan import SCALES, check_data, load_spec, plan
from experiments.pretraining import pretraining_run
from experiments.progress import TableBar, duration, estimate
from experiments.results import read_run, runs_to_frame, write_csv, write_text_atomic
from experiments.tracking import start_tracking
from scripts.cli import is_main_process, run_command
from smartfrz.distributed import is_distributed

PAPER = Path(__file__).parent.parent / "results" / "paper.csv"


def main() -> None:
    """Reads the command line, runs what is missing, draws the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="the name of a spec in experiments/specs")
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--models", nargs="+", help="only these models of the table")
    parser.add_argument("--datasets", nargs="+", help="only these data sets of the table")
    parser.add_argument("--wandb", action="store_true", help="track the runs with wandb")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()

    spec = load_spec(options.table)
    planned = plan(spec, options.scale)
    check_asked(options.models, {config.model for config in planned}, "model")
    check_asked(options.datasets, {config.dataset for config in planned}, "data set")
    chosen = [
        config
        for config in planned
        if config.model in (options.models or [config.model])
        and config.dataset in (options.datasets or [config.dataset])
    ]
    runs = options.results / "runs"
    if not options.dry:
        check_data(chosen)
    todo = missing_runs(chosen, runs)
    print_plan(spec.title, chosen, todo)
    if options.dry:
        return
    run_all(options, chosen, todo, runs)
    if is_main_process():
        draw(options, spec.title, planned, runs)


def check_asked(asked: list[str] | None, known: set[str], what: str) -> None:
    """Raises ValueError where something is asked for that is not in the table."""
    for name in asked or []:
        if name not in known:
            raise ValueError(f"No {what} {name!r} here: there are {', '.join(sorted(known))}.")


def missing_runs(chosen: list[RunConfig], runs: Path) -> list[RunConfig]:
    """What is still to be done, pretraining first; linear freezing with its nominal epochs."""
    sources = dict.fromkeys(source for config in chosen if (source := pretraining_run(config)))
    cells = [
        config
        for config in chosen
        if (known := matched(config, chosen, runs)) is None or not is_finished(known, runs)
    ]
    needed = {pretraining_run(config) for config in cells}
    missing = [s for s in sources if s in needed and not is_finished(s, runs, needs_weights=True)]
    return missing + cells


def print_plan(title: str, chosen: list[RunConfig], todo: list[RunConfig]) -> None:
    """Says what there is to do before it starts."""
    if not is_main_process():
        return
    print(title)
    print(f"{len(chosen)} cells, {len(todo)} runs to do, pretraining included.")
    for config in todo:
        print(f"  {config.cell}, {config.epochs:g} epochs")


def run_all(
    options: argparse.Namespace, chosen: list[RunConfig], todo: list[RunConfig], runs: Path
) -> None:
    """Does the missing runs under one progress bar."""
    if not todo:
        return
    estimates = estimate(todo)
    if is_main_process():
        seconds = sum(each.seconds for each in estimates.values())
        print(
            f"Without freezing this would take {duration(seconds)} here; it goes on where it stops."
        )
    sources = {pretraining_run(config) for config in chosen}
    with closing(TableBar(estimates, quiet=not is_main_process())) as bar:
        for config in todo:
            known = matched(config, chosen, runs)
            if known is not None:
                run_one(options, known, runs, bar.for_run(config), config in sources)
            elif is_main_process():
                print(f"Not run: {config.cell}, since the run that it is matched with diverged.")
            bar.finish_run(config)


def run_one(options, config: RunConfig, runs: Path, on_step, keep_weights: bool) -> None:
    """Does one run, tracked if asked for."""
    command = f"make {options.table} SCALE={options.scale}"
    tracks = options.wandb and is_main_process()
    log, finish = start_tracking(config, options.table) if tracks else (no_op, no_op)
    execute(config, runs, command, on_step, log, keep_weights)
    finish()
    if is_distributed():
        dist.barrier()


def no_op(*_: object) -> None:
    """Tracks nothing."""


def draw(options: argparse.Namespace, title: str, planned: list[RunConfig], runs: Path) -> None:
    """Makes CSV, tables and figures from the run files, and shows the table."""
    folder = options.results / f"{options.table}-{options.scale}"
    frame = collect(planned, runs)
    write_csv(frame, folder / "runs.csv")
    cells = [(config.model, config.dataset, config.method, config.seed) for config in planned]
    paper = pd.read_csv(PAPER)
    paper = paper[("table" + paper["table"].astype(str)) == options.table]
    table = tables.comparison_table(frame, cells, paper)
    caption = tables.caption(frame, title)
    write_csv(table, folder / "table.csv")
    write_text_atomic(folder / "table.md", tables.to_markdown(table, caption))
    write_text_atomic(folder / "table.tex", tables.to_latex(table, caption))
    if (frame["status"] == "finished").any():
        figures.save(figures.accuracy_against_compute(frame), folder / "accuracy_against_compute")
        figures.save(figures.layers_frozen_over_time(frame), folder / "layers_frozen_over_time")
    print(tables.to_text(table))
    print(caption)
    print("\n".join(str(file) for file in sorted(folder.iterdir())))


def collect(planned: list[RunConfig], runs: Path) -> pd.DataFrame:
    """The finished runs of a table, one row each."""
    known = [matched(config, planned, runs) for config in planned]
    files = [run_file(config, runs) for config in known if config]
    return runs_to_frame([run for file in files if file.exists() and (run := read_run(file))])


if __name__ == "__main__":
    run_command(main)
