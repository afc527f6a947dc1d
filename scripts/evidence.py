"""Compares predictors with rivals on families new to them: ``python -m scripts.evidence``."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import figures_of_evidence, tables_of_evidence
from experiments.config import RunConfig, checked
from experiments.evidence import Evidence, Job, do, jobs
from experiments.figures import save
from experiments.machine import provenance
from experiments.models import FAMILIES
from experiments.paths import cache_folder
from experiments.plan import SCALES, load_spec, plan, training_at
from experiments.results import write_csv, write_json_atomic, write_text_atomic
from experiments.scores import BUNDLED, Comparison, read_scores, write_scores
from experiments.verdict import verdict
from scripts.cli import check_asked, run_command
from scripts.dry import print_todo
from scripts.histories import record_all, to_record

SCORES = "scores.csv"


def main() -> None:
    """Reads the command line, records and fits what is missing, draws what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--families", nargs="+", help="only fit what is judged on these families")
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()

    learning, judging = load_spec("predictor"), load_spec("evidence")
    learned, judged = plan(learning, options.scale), plan(judging, options.scale)
    evidence = checked(Evidence, judging.predictor, "evidence")
    training = training_at(options.scale, learning.predictor)
    planned = jobs(evidence, training, learned, judged)
    families = [name for name in FAMILIES if any(job.family == name for job in planned)]
    check_asked(options.families, set(families), "family")

    folder = options.results / f"evidence-{options.scale}"
    asked = options.families or families
    done = known(planned, folder / SCORES)
    todo = [job for job in planned if job.family in asked and job not in done]
    recordings, runs = [*learned, *judged], options.results / "runs"
    if options.dry:
        print(f"{len(planned)} jobs, {len(todo)} to do.")
        print_todo(recordings, to_record(recordings, runs) if todo else [], runs)
        return
    if todo:
        command = f"make evidence SCALE={options.scale}"
        record_all(recordings, runs, command)
        do_all(todo, learned, judged, evidence, command)
        done = known(planned, folder / SCORES)
    write_scores([row for job in planned for row in done.get(job, [])], folder / SCORES)
    draw(Comparison(read_scores(folder / SCORES), evidence, training.tolerance, families), folder)


def known(planned: Sequence[Job], scores: Path) -> dict[Job, list[dict[str, Any]]]:
    """What jobs have found, by this cache or else by the results that are there."""
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
    """Does the missing jobs under one progress bar."""
    with tqdm(total=sum(1 + job.learns * job.training.steps for job in todo)) as bar:
        for job in todo:
            bar.set_description(f"{job.candidate}, without {job.family}, seed {job.seed}")
            rows = do(
                job, learned, judged, evidence.records_per_epoch, lambda step, loss: bar.update()
            )
            bar.update()
            facts = provenance(command)
            facts = {**facts, "machine": facts["machine"]["gpu"] or facts["machine"]["cpu"]}
            rows = [{"job": job.id, **row, **facts} for row in rows]
            write_json_atomic(cache_folder("evidence") / f"{job.id}.json", rows)


def draw(comparison: Comparison, folder: Path) -> None:
    """Makes tables, figures and the verdict from the scores alone, and shows what there is."""
    tables = {
        "table": tables_of_evidence.candidates(comparison),
        "ablations": tables_of_evidence.ablations(comparison),
        "paces": tables_of_evidence.paces(comparison),
    }
    for name, table in tables.items():
        write_csv(table.frame, folder / f"{name}.csv")
        write_text_atomic(folder / f"{name}.md", table.to_markdown())
        write_text_atomic(folder / f"{name}.tex", table.to_latex())
    families, errors = comparison.families, comparison.by_family("calibration_error")
    figures = {
        "auroc": figures_of_evidence.auroc(tables["table"].frame, families),
        "tolerances": figures_of_evidence.tolerances(
            comparison.tolerances(), families, comparison.tolerance
        ),
        "reliability": figures_of_evidence.reliability(
            comparison.reliability(), errors.loc[BUNDLED].to_dict()
        ),
    }
    for name, figure in figures.items():
        save(figure, folder / name)
    said = verdict(comparison)
    write_text_atomic(folder / "verdict.md", said)
    print(tables["table"].to_markdown())
    print(said)
    print("\n".join(str(file) for file in sorted(folder.iterdir())))


if __name__ == "__main__":
    run_command(main)
