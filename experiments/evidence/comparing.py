"""Execution of the missing jobs of the comparison, and output of its tables and figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.config import RunConfig
from experiments.evidence import figures as figures_of_evidence
from experiments.evidence import tables as tables_of_evidence
from experiments.evidence.jobs import Evidence, Job, do, jobs
from experiments.evidence.scores import BUNDLED, Comparison, read_scores, write_scores
from experiments.evidence.verdict import verdict
from experiments.files import cache_folder, dry_run, write_csv, write_json_atomic, write_text_atomic
from experiments.locks import locked
from experiments.models.registry import families as all_families
from experiments.plan import plan, training_at
from experiments.predictor.recordings import record_all, to_record
from experiments.reporting.provenance import provenance_of
from experiments.reporting.style import save
from experiments.runs.provenance import provenance
from experiments.spec import load_spec
from experiments.tables.dry_run import print_todo
from experiments.validation import check_asked, checked

SCORES = "scores.csv"


def compare(
    scale: str, results: Path, families: Sequence[str] | None = None, dry: bool = False
) -> None:
    """Executes missing recorded runs and jobs, and writes the tables and figures.

    Args:
        scale: a scale of the specs ``recordings`` and ``evidence``.
        results: the folder of all results.
        families: only execute jobs that are evaluated on these families; by default all.
        dry: print the pending work, and stop.

    Raises:
        UserError: a family is unknown.
    """
    learning, judging = load_spec("recordings"), load_spec("evidence")
    learned, judged = plan(learning, scale), plan(judging, scale)
    evidence = checked(Evidence, judging.predictor, "evidence")
    training = training_at(scale, learning.predictor)
    planned = jobs(evidence, training, learned, judged)
    judged_families = [name for name in all_families() if any(j.family == name for j in planned)]
    check_asked(families, set(judged_families), "family")

    folder, runs = results / f"evidence-{scale}", results / "runs"
    done = known(planned, folder / SCORES)
    asked = families or judged_families
    todo = [job for job in planned if job.family in asked and job not in done]
    recordings = [*learned, *judged]
    if dry:
        print(f"{len(planned)} jobs, {len(todo)} to do.")
        with dry_run():
            print_todo(recordings, to_record(recordings, runs) if todo else [], runs)
        return
    if todo:
        command = f"make evidence SCALE={scale}"
        record_all(recordings, runs, command)
        do_all(todo, learned, judged, evidence, command)
        done = known(planned, folder / SCORES)
    write_scores([row for job in planned for row in done.get(job, [])], folder / SCORES)
    scores = read_scores(folder / SCORES)
    comparisons = [
        Comparison(
            scores,
            evidence,
            label,
            settings.get("tolerance", training.tolerance),
            judged_families,
        )
        for label, settings in evidence.labels.items()
    ]
    draw(comparisons, folder)


def known(planned: Sequence[Job], scores: Path) -> dict[Job, list[dict[str, Any]]]:
    """Returns the rows of scores of finished jobs, from the cache or otherwise from ``scores``."""
    frame = read_scores(scores) if scores.exists() else None
    written = {} if frame is None else dict(list(frame.groupby("job")))
    found = {}
    for job in planned:
        file = cache_folder("evidence") / f"{job.id}.json"
        if file.exists():
            found[job] = json.loads(file.read_text())
        elif job.id in written:
            found[job] = written[job.id].to_dict("records")
    return found


def do_all(
    todo: Sequence[Job],
    learned: Sequence[RunConfig],
    judged: Sequence[RunConfig],
    evidence: Evidence,
    command: str,
) -> None:
    """Executes the missing jobs under one progress bar."""
    with tqdm(total=sum(1 + job.learns * job.training.steps for job in todo)) as bar:
        for job in todo:
            origin, file = provenance(command), cache_folder("evidence") / f"{job.id}.json"
            described = f"{job.candidate}, without {job.family}, seed {job.seed}"
            bar.set_description(described)
            with locked(job.id, described):
                if file.exists():  # another process has executed it meanwhile
                    bar.update(1 + job.learns * job.training.steps)
                    continue
                rows = do(
                    *(job, learned, judged, evidence.records_per_epoch),
                    lambda step, loss: bar.update(),
                )
                bar.update()
                facts = {**origin, "machine": origin["machine"]["gpu"] or origin["machine"]["cpu"]}
                rows = [{"job": job.id, **row, **facts} for row in rows]
                write_json_atomic(file, rows)


def draw(comparisons: Sequence[Comparison], folder: Path) -> None:
    """Writes tables, figures and the verdict from the scores alone, and prints the main tables.

    Args:
        comparisons: the comparison for each label. File names of all but the first end with their
            label.
        folder: the folder to write to.
    """
    write_json_atomic(folder / "provenance.json", provenance_of(comparisons[0].scores))
    for number, comparison in enumerate(comparisons):
        suffix = f"_{comparison.label}" if number else ""
        tables = _tables(comparison, is_first=not number)
        for name, table in tables.items():
            write_csv(table.frame, folder / f"{name}{suffix}.csv")
            write_text_atomic(folder / f"{name}{suffix}.md", table.to_markdown())
            write_text_atomic(folder / f"{name}{suffix}.tex", table.to_latex())
        for name, figure in _figures(comparison, is_first=not number).items():
            save(figure, folder / f"{name}{suffix}")
        print(tables["table"].to_markdown())
    said = verdict(comparisons)
    write_text_atomic(folder / "verdict.md", said)
    print(said)
    print("\n".join(str(file) for file in sorted(folder.iterdir())))


def _tables(comparison: Comparison, is_first: bool) -> dict[str, tables_of_evidence.Table]:
    """Returns the tables by file name; ablations are made for the first label only."""
    tables = {
        "table": tables_of_evidence.gains(comparison),
        "pooled": tables_of_evidence.candidates(comparison),
        "paces": tables_of_evidence.paces(comparison),
    }
    return {**tables, "ablations": tables_of_evidence.ablations(comparison)} if is_first else tables


def _figures(comparison: Comparison, is_first: bool) -> dict[str, Figure]:
    """Returns the figures by file name, of which the first label has more."""
    families, errors = comparison.families, comparison.by_family("calibration_error")
    within = comparison.candidates("within_moment")
    title = "Concordance within a moment"
    figures = {"within_moment": figures_of_evidence.by_candidate(within, families, title)}
    if not is_first:
        return figures
    return {
        **figures,
        "auroc": figures_of_evidence.by_candidate(comparison.candidates(), families, "AUROC"),
        "reliability": figures_of_evidence.reliability(
            comparison.reliability(), errors.loc[BUNDLED].to_dict()
        ),
        "tolerances": figures_of_evidence.tolerances(
            comparison.tolerances(), families, comparison.tolerance
        ),
    }
