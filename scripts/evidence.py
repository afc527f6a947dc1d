"""Compares predictors with rivals on families new to them: ``python -m scripts.evidence``."""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from experiments.config import RunConfig, checked
from experiments.evidence import Evidence, Job, do, jobs
from experiments.machine import provenance
from experiments.models import FAMILIES
from experiments.paths import cache_folder
from experiments.plan import SCALES, load_spec, plan
from experiments.results import read_csv, write_csv, write_json_atomic
from scripts.cli import check_asked, run_command
from scripts.histories import record_all
from scripts.predictor import training_at


def main() -> None:
    """Reads the command line, records and fits what is missing, writes CSV, tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--families", nargs="+", help="only fit for these, draw nothing")
    options = parser.parse_args()
    check_asked(options.families, set(FAMILIES), "family")

    learning, judging = load_spec("predictor"), load_spec("evidence")
    learned, judged = plan(learning, options.scale), plan(judging, options.scale)
    command = f"make evidence SCALE={options.scale}"
    record_all([*learned, *judged], options.results / "runs", command)
    evidence = checked(Evidence, judging.predictor, "evidence")
    planned = jobs(evidence, training_at(options.scale, learning.predictor), learned, judged)
    folder = options.results / f"evidence-{options.scale}"
    chosen = [job for job in planned if job.family in (options.families or FAMILIES)]
    rows = {job: found for job in planned if (found := known(job, folder)) is not None}
    do_all([job for job in chosen if job not in rows], learned, judged, evidence, command)
    if not options.families:
        found = [row for job in planned for row in known(job, folder) or []]
        write_csv(pd.DataFrame(found), folder / "scores.csv")


def known(job: Job, folder: Path) -> list[dict[str, Any]] | None:
    """What a job has found, in this cache or in the results that are there."""
    file = cache_folder("evidence") / f"{job.id}.json"
    if file.exists():
        return json.loads(file.read_text())
    if (folder / "scores.csv").exists():
        frame = read_csv(folder / "scores.csv")
        rows = frame[frame["job"] == job.id]
        return rows.to_dict("records") if len(rows) else None
    return None


def do_all(
    todo: list[Job],
    learned: list[RunConfig],
    judged: list[RunConfig],
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


if __name__ == "__main__":
    run_command(main)
