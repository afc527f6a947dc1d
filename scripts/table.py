"""Runs a table, cell by cell, and draws it: ``python -m scripts.table table2 --scale small``."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pandas as pd
import torch.distributed as dist

from experiments import figures, tables
from experiments.claims import claims
from experiments.compute import full_tflops
from experiments.config import RunConfig, SmartFreezing
from experiments.execute import execute, is_finished, run_file
from experiments.matching import matched
from experiments.needs import check_needs, needs
from experiments.plan import SCALES, Spec, labelled_plan, load_spec, recipes
from experiments.predictors import Recipe, kept
from experiments.results import (
    load_runs,
    read_csv,
    read_run,
    runs_to_frame,
    write_csv,
    write_text_atomic,
)
from experiments.rows import ROWS, left_out, rows_among, with_rows
from experiments.series import ignore, missing_prerequisites, prerequisites, run_series
from experiments.tracking import start_tracking
from experiments.train import OnStep
from scripts.cli import check_asked, is_main_process, run_command
from scripts.dry import print_refusal
from scripts.predictor import make_for_table
from smartfrz.distributed import is_distributed

PAPER = Path(__file__).parent.parent / "results" / "paper.csv"
FIGURES = {
    "accuracy_against_compute": figures.accuracy_against_compute,
    "layers_frozen_over_time": figures.layers_frozen_over_time,
}


def main() -> None:
    """Reads the command line, runs what is missing, draws the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="the name of a spec in experiments/specs")
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--models", nargs="+", help="only these models of the table")
    parser.add_argument("--datasets", nargs="+", help="only these data sets of the table")
    parser.add_argument("--controls", action="store_true", help="add a sceptic's rows")
    parser.add_argument("--budget", action="store_true", help="add what 60%% of the compute gives")
    parser.add_argument("--wandb", action="store_true", help="track the runs with wandb")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()

    plain = load_spec(options.table)
    asked = [rows for rows in ROWS if getattr(options, rows)]
    spec = reduce(with_rows, asked, plain)
    planned = labelled_plan(spec, options.scale)
    check_asked(options.models, {config.model for config in planned}, "model")
    check_asked(options.datasets, {config.dataset for config in planned}, "data set")
    chosen = {
        config: method
        for config, method in planned.items()
        if config.model in (options.models or [config.model])
        and config.dataset in (options.datasets or [config.dataset])
    }
    runs = options.results / "runs"
    todo = missing_runs(chosen, runs)
    needed = needed_predictors(todo, recipes(spec, options.scale))
    if options.dry:
        if is_main_process():
            print_left_out(plain, asked)
            print_dry(spec.title, chosen, todo, needed, runs)
        return
    check_needs([*chosen, *todo])
    if is_main_process():
        print_left_out(plain, asked)
        print_plan(spec.title, chosen, todo, needed)
        print_needs(chosen, todo, runs)
    make_for_table(needed, options.scale, options.results)
    run_all(options, chosen, todo, runs)
    if is_main_process():
        draw(options, plain, asked)


def missing_runs(chosen: Mapping[RunConfig, str], runs: Path) -> list[RunConfig]:
    """What is still to be done, prerequisites first; linear freezing with its nominal epochs."""
    cells = [
        config
        for config in chosen
        if (known := matched(config, chosen, runs)) is None or not is_finished(known, runs)
    ]
    # The oracle's reference may be a cell of the table.
    return list(dict.fromkeys(missing_prerequisites(cells, runs) + cells))


def needed_predictors(todo: Sequence[RunConfig], own: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Those of the table's own predictors that the runs to come need, made already or not."""
    options = [config.options for config in todo]
    used = {each.predictor for each in options if isinstance(each, SmartFreezing)}
    return {name: recipe for name, recipe in own.items() if name in used}


def print_left_out(spec: Spec, asked: Sequence[str]) -> None:
    """Says which additional rows were asked for and can't be had."""
    for of in asked:
        if rows := left_out(spec, of):
            print(f"Without {', '.join(rows)}: matched with what this table doesn't have.")


def print_plan(
    title: str,
    chosen: Mapping[RunConfig, str],
    todo: list[RunConfig],
    predictors: Mapping[str, Recipe],
) -> None:
    """Says what there is to do before it starts."""
    print(title)
    if missing := [name for name, recipe in predictors.items() if recipe.id not in kept()]:
        print(f"Predictors to make first: {', '.join(missing)}.")
    print(f"{len(chosen)} cells, {len(todo)} runs to do, pretraining included:")
    for config in todo:
        method = chosen.get(config, config.method)
        print(
            f"  {config.model} {config.dataset} {method} seed {config.seed}, "
            f"{config.epochs:g} epochs"
        )


def print_needs(chosen: Mapping[RunConfig, str], todo: list[RunConfig], runs: Path) -> None:
    """Says what full training computes, and what the runs to come need."""
    for config in dict.fromkeys(replace(c.full_training, seed=0) for c in chosen):
        exact, as_in_paper = full_tflops(config), full_tflops(config, as_in_paper=True)
        print(
            f"  {config.model} {config.dataset}, full training: {exact:,.2f} TFLOPs"
            f" (as the paper counts: {as_in_paper:,.2f})"
        )
    print("\n".join(needs(todo, load_runs(runs))))


def print_dry(
    title: str,
    chosen: Mapping[RunConfig, str],
    todo: list[RunConfig],
    predictors: Mapping[str, Recipe],
    runs: Path,
) -> None:
    """The plan, and whether all that it needs is here."""
    print_plan(title, chosen, todo, predictors)
    try:
        check_needs([*chosen, *todo])
        print_needs(chosen, todo, runs)
    except ValueError as error:
        print_refusal(error)


def run_all(
    options: argparse.Namespace,
    chosen: Mapping[RunConfig, str],
    todo: list[RunConfig],
    runs: Path,
) -> None:
    """Does the missing runs under one progress bar."""
    sources = {source for config in chosen for source in prerequisites(config)}
    switches = [f"{rows.upper()}=1" for rows in ROWS if getattr(options, rows)]
    command = " ".join([f"make {options.table} SCALE={options.scale}", *switches])
    tracks = options.wandb and is_main_process()

    def run_one(planned: RunConfig, on_step: OnStep) -> None:
        config = matched(planned, chosen, runs)
        if config is None:
            if is_main_process():
                print(f"Not run: {planned.cell}, since the run that it is matched with diverged.")
            return
        log, finish = ignore, ignore
        if tracks:
            log, finish = start_tracking(config, options.table, chosen.get(planned, "full"))
        execute(config, runs, command, on_step, log, keep_weights=config in sources)
        finish()
        if is_distributed():
            dist.barrier()

    run_series(todo, run_one, quiet=not is_main_process())


def draw(options: argparse.Namespace, spec: Spec, asked: Sequence[str] = ()) -> None:
    """Makes CSV, tables and figures from the run files, and shows the table.

    Args:
        options: of the command.
        spec: the table.
        asked: kinds of rows to add, besides those that it was last drawn with.
    """
    folder = options.results / f"{options.table}-{options.scale}"
    there = drawn_rows(folder, spec)
    whole = reduce(with_rows, [rows for rows in ROWS if rows in {*asked, *there}], spec)
    planned, title = labelled_plan(whole, options.scale), spec.title
    frame = collect(planned, options.results / "runs")
    for old in ("claims.md", *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf"))):
        (folder / old).unlink(missing_ok=True)
    table = write_tables(frame, planned, options.table, title, folder)
    if (frame["status"] == "finished").any():
        for name, figure in FIGURES.items():
            figures.save(figure(frame), folder / name)
    print(tables.to_text(table))
    print(tables.caption(frame, title))
    print("\n".join(str(file) for file in sorted(folder.iterdir())))


def drawn_rows(folder: Path, spec: Spec) -> list[str]:
    """The kinds of additional rows that a table was last drawn with."""
    runs = folder / "runs.csv"
    return rows_among(read_csv(runs)["method"], spec) if runs.exists() else []


def write_tables(
    frame: pd.DataFrame, planned: Mapping[RunConfig, str], name: str, title: str, folder: Path
) -> pd.DataFrame:
    """Writes all that is made of a table's runs but the figures; returns the table."""
    write_csv(frame, folder / "runs.csv")
    cells = [(c.model, c.dataset, method, c.seed) for c, method in planned.items()]
    paper = pd.read_csv(PAPER)
    paper = paper[("table" + paper["table"].astype(str)) == name]
    table = tables.comparison_table(frame, cells, paper)
    caption = tables.caption(frame, title)
    write_csv(table, folder / "table.csv")
    write_text_atomic(folder / "table.md", tables.to_markdown(table, caption))
    write_text_atomic(folder / "table.tex", tables.to_latex(table, caption))
    if found := claims(frame):
        write_text_atomic(folder / "claims.md", found)
    return table


def collect(planned: Mapping[RunConfig, str], runs: Path) -> pd.DataFrame:
    """The finished runs of a table, one row each, with their methods as the table has them."""
    found, methods = [], {}
    for config, method in planned.items():
        known = matched(config, planned, runs)
        file = run_file(known or config, runs)
        if known and file.exists() and (run := read_run(file)):
            found.append(run)
            methods[run["id"]] = method
    frame = runs_to_frame(found)
    # Not before, or the runs would no longer be what was sealed.
    return frame.assign(method=frame["id"].map(methods))


if __name__ == "__main__":
    run_command(main)
