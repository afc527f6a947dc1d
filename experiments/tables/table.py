"""The table command: plans a table's runs, executes the missing ones, and draws the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path

import pandas as pd
import torch.distributed as dist

from experiments.added_rows import KINDS, left_out, with_rows
from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import dry_run
from experiments.models.pretraining import fetch_published_weights
from experiments.options import SmartFRZOptions
from experiments.plan import downloads, labelled_plan, recipes
from experiments.predictor.cache import kept, pretrained
from experiments.predictor.making import make_for_table
from experiments.predictor.recipes import Recipe
from experiments.runs.execute import execute, is_finished
from experiments.runs.processes import by_main_process, is_main_process
from experiments.runs.run_frame import load_runs
from experiments.runs.tracking import start_tracking
from experiments.runs.training_loop import OnStep
from experiments.spec import Spec, load_spec
from experiments.tables.compute import full_tflops
from experiments.tables.dry_run import print_refusal
from experiments.tables.files import draw
from experiments.tables.matched_compute import matched, partners
from experiments.tables.queue import (
    Queue,
    ignore,
    missing_prerequisites,
    prerequisites,
    run_queue,
)
from experiments.tables.requirements import benchmarked, check_requirements, requirements
from experiments.tables.versions import check_may_mix, describe, of_other_code
from experiments.validation import check_asked
from smartfrz.distributed import is_distributed


@dataclass(frozen=True)
class Table:
    """A table, or a subset of its cells, and the folder of its results.

    Attributes:
        name: the name of a spec in ``experiments/specs``.
        scale: a scale of the spec.
        results: the folder of all results.
        models: networks to include; None for all.
        datasets: data sets to include; None for all.
        methods: methods to include, with their labels; None for all.
        seeds: seeds to include; None for all.
        added: kinds of added rows, see `with_rows`.
        is_tracked: whether to track the runs with wandb.
        is_fresh: whether to execute finished runs of other code than the present again.
        is_mixed: whether to add runs to finished ones of other code.
        is_rehearsal: whether to cut all runs short, see `rehearsed`.
    """

    name: str
    scale: str
    results: Path
    models: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    added: Sequence[str] = ()
    is_tracked: bool = False
    is_fresh: bool = False
    is_mixed: bool = False
    is_rehearsal: bool = False

    @cached_property
    def plain(self) -> Spec:
        """The spec without added rows."""
        return replace(load_spec(self.name), is_rehearsal=self.is_rehearsal)

    @cached_property
    def spec(self) -> Spec:
        """The spec with added rows."""
        return reduce(with_rows, self.added, self.plain)

    @cached_property
    def planned(self) -> dict[RunConfig, str]:
        """All runs, each with its method as named in the spec.

        Raises:
            UserError: the spec is not valid.
        """
        return labelled_plan(self.spec, self.scale)

    @cached_property
    def cells(self) -> dict[RunConfig, str]:
        """The selected runs, each with its method as named in the spec.

        Raises:
            UserError: the spec is not valid, or a selected name or seed is not in it.
        """
        check_asked(self.models, {config.model for config in self.planned}, "model")
        check_asked(self.datasets, {config.dataset for config in self.planned}, "data set")
        check_asked(self.methods, set(self.planned.values()), "method")
        check_asked(self.seeds, {config.seed for config in self.planned}, "seed")
        return {
            config: method
            for config, method in self.planned.items()
            if config.model in (self.models or [config.model])
            and config.dataset in (self.datasets or [config.dataset])
            and method in (self.methods or [method])
            and config.seed in (self.seeds or [config.seed])
        }

    @property
    def runs(self) -> Path:
        """The folder of the run files."""
        return self.results / "runs"

    def final(self, config: RunConfig) -> RunConfig:
        """A cell's run as it is executed: with the compute of the run that it is matched with."""
        return matched(config, self.planned, self.runs) or config

    def is_finished(self, config: RunConfig, needs_weights: bool = False) -> bool:
        """Whether a run of the table, or a prerequisite, needs no execution."""
        known = matched(config, self.planned, self.runs)
        return known is not None and is_finished(known, self.runs, needs_weights, self.is_fresh)

    @property
    def command(self) -> str:
        """The ``make`` command of the table, which run files record."""
        switches = [f"{kind.upper()}=1" for kind in KINDS if kind in self.added]
        switches += ["REHEARSAL=1"] if self.is_rehearsal else []
        return " ".join([f"make {self.name} SCALE={self.scale}", *switches])


def make_table(table: Table) -> None:
    """Executes the missing runs of a table, and draws it.

    Raises:
        UserError: data, weights or a predictor are missing, or runs of other code would be mixed
            with new ones.
    """
    by_main_process(lambda: fetch(table))
    todo = missing_runs(table)
    predictors = needed_predictors(todo, recipes(table.spec, table.scale))
    if todo and not (table.is_fresh or table.is_mixed):
        check_may_mix([run for run in reused(table, todo) if run not in todo], table.runs)
    if todo:
        check_requirements([*table.cells, *todo])
    if is_main_process():
        print_plan(table, todo, predictors)
        if todo:
            print_requirements(table, todo)
    make_for_table(predictors, table.scale, table.results)
    run_all(table, todo)
    if is_main_process():
        draw(table.results, table.name, table.scale, table.plain, table.added)


def fetch(table: Table) -> None:
    """Downloads what the plan of a table depends on: published weights, and predictors.

    Weights that cannot be downloaded are replaced by the table's fallback, if it has one.
    """
    networks, predictors = downloads(table.spec, table.scale)
    for name in networks:
        if name in (table.models or networks):
            try:
                fetch_published_weights(name)
            except UserError as error:
                print(error)
    for name in predictors:
        pretrained(name)


def print_dry(table: Table) -> None:
    """Prints the plan of a table and its requirements, or why it cannot be started.

    Nothing is written or downloaded.
    """
    with dry_run():
        networks, _ = downloads(table.spec, table.scale)
        if networks:
            print(f"Published weights to be downloaded first: {', '.join(networks)}.")
            print("This is the plan without them.")
        cells = table.cells
        try:
            todo = missing_runs(table)
            print_plan(table, todo, needed_predictors(todo, recipes(table.spec, table.scale)))
            print_requirements(table, todo)
            check_requirements([*cells, *todo])
        except UserError as error:
            print_refusal(error)


def missing_runs(table: Table) -> list[RunConfig]:
    """Returns the missing runs of a table, prerequisites first.

    Runs that are matched with an unfinished run still have their nominal epochs or span.
    """
    missing = [config for config in table.cells if not table.is_finished(config)]
    needed = missing_prerequisites(missing, table.runs, by_this_code=table.is_fresh)
    # The reference run of similarity-guided freezing may be a cell of the table.
    return list(dict.fromkeys(needed + missing))


def reused(table: Table, todo: Sequence[RunConfig]) -> list[RunConfig]:
    """Returns the finished runs of other code that a table holds, or that new runs start from.

    Args:
        table: the table.
        todo: its missing runs.
    """
    cells = [table.final(config) for config in table.cells]
    sources = [source for config in todo for source in prerequisites(config)]
    return of_other_code(dict.fromkeys([*cells, *sources]), table.runs)


def needed_predictors(todo: Sequence[RunConfig], own: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Returns those of a table's own predictors that the missing runs need, trained or not.

    Args:
        todo: the missing runs.
        own: the recipes of the table's predictors by name.
    """
    options = [config.options for config in todo]
    used = {each.predictor for each in options if isinstance(each, SmartFRZOptions)}
    return {name: recipe for name, recipe in own.items() if name in used}


def print_plan(table: Table, todo: list[RunConfig], predictors: Mapping[str, Recipe]) -> None:
    """Prints the missing predictors and runs of a table."""
    for kind in table.added:
        if rows := left_out(table.plain, kind):
            print(f"Left out: {', '.join(rows)}, because this table lacks the row they require.")
    print(table.spec.title)
    if others := reused(table, todo):
        print(describe(others, table.runs))
    if missing := [name for name, recipe in predictors.items() if recipe.id not in kept()]:
        print(f"Predictors to train first: {', '.join(missing)}.")
    print(f"{len(table.cells)} cells, {len(todo)} runs to do, pretraining included:")
    for config in todo:
        method = table.cells.get(config, config.method)
        print(
            f"  {config.model} {config.dataset} {method} seed {config.seed}, "
            f"{config.epochs:g} epochs"
        )


def print_requirements(table: Table, todo: list[RunConfig]) -> None:
    """Prints the compute of full training, and the requirements of the missing runs."""
    full = dict.fromkeys(replace(c.full_training, seed=0) for c in table.cells)
    for line in dict.fromkeys(map(_describe_full_training, full)):
        print(line)
    measured = pd.concat([load_runs(table.runs), benchmarked(todo, table.results)])
    print("\n".join(requirements(todo, measured)))


def _describe_full_training(config: RunConfig) -> str:
    exact, as_in_paper = full_tflops(config), full_tflops(config, as_in_paper=True)
    return (
        f"  {config.model} {config.dataset}, full training: {exact:,.2f} TFLOPs"
        f" (as the paper counts: {as_in_paper:,.2f})"
    )


def run_all(table: Table, todo: list[RunConfig]) -> None:
    """Executes the missing runs under one progress bar."""
    sources = {source for config in table.cells for source in prerequisites(config)}
    is_tracked = table.is_tracked and is_main_process()

    def run_one(planned: RunConfig, on_step: OnStep) -> None:
        config = matched(planned, table.planned, table.runs)
        if config is None:
            if is_main_process():
                print(
                    f"Not run: {planned.cell}, because the run it is matched with has diverged or "
                    "not been run."
                )
            return
        log, finish = ignore, ignore
        if is_tracked:
            log, finish = start_tracking(config, table.name, table.cells.get(planned, "full"))
        keep_weights = config in sources
        execute(config, table.runs, table.command, on_step, log, keep_weights=keep_weights)
        finish()
        if is_distributed():
            dist.barrier()

    queue = Queue(
        todo,
        run_one,
        is_finished=lambda config: table.is_finished(config, needs_weights=config in sources),
        needs=lambda config: [*prerequisites(config), *partners(config, table.planned)],
        final=table.final,
    )
    run_queue(queue, quiet=not is_main_process())
