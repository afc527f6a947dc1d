"""End-to-end tests of ``make evidence`` on digits: output files, and resuming."""

import dataclasses
import json
import shutil
import sys

import pytest

from experiments.evidence import comparing
from experiments.evidence.jobs import Evidence, jobs
from experiments.evidence.scores import read_scores
from experiments.plan import plan, training_at
from experiments.spec import Spec
from experiments.tables import queue
from experiments.validation import checked
from scripts import evidence as command
from scripts.cli import run_command

RUN = {
    **{"epochs": 2, "lr": 0.05, "image_size": 16, "augment": False},
    **{"train_images": 160, "test_images": 32},
}
RECORD = {"record": {"records_per_epoch": 5, "probe_images": 16}}


def spec(dataset, seeds, predictor):
    scale = {"models": ["residual", "plain"], "datasets": [dataset], "seeds": seeds}
    return Spec("Digits.", ["record"], {"demo": {**scale, "run": RUN}}, RECORD, predictor)


SPECS = {
    "recordings": spec(
        "digits[5:10]",
        [0, 1],
        {"encoding": "outputs", "tolerance": 0.2, "steps": 2, "lr": 0.01}
        | {"weight_decay": 0.1, "stride": 1},
    ),
    "evidence": spec(
        "digits[0:5]",
        [0],
        {"seeds": [0, 1], "records_per_epoch": [5, 1], "tolerances": [1e-3]}
        | {"labels": {"cka": {"tolerance": 1e-3}, "contribution": {}}}
        | {"candidates": {"outputs": {}, "raw": {"encoding": "raw"}}}
        | {"ablations": {"tolerance 0.002": {"tolerance": 2e-3}}},
    ),
}
# For each family and label: two candidates with two seeds, ten baselines; and one ablation.
JOBS = 2 * (2 * (2 * 2 + 10) + 1)


def run(patch, folder, *options):
    places = ["--scale", "demo", "--results", str(folder / "results")]
    patch.setattr(sys, "argv", ["evidence", *places, *options])
    patch.setattr(comparing, "load_spec", SPECS.__getitem__)
    command.main()


def contents(folder):
    return {file.name: file.read_bytes() for file in (folder / "results/evidence-demo").iterdir()}


def refuse(monkeypatch):
    """Makes recording and fitting fail."""
    for name in ("record_all", "do"):
        monkeypatch.setattr(comparing, name, None)


def test_writes_scores_tables_figures_and_verdict(made):
    files = contents(made)
    both = [f"{name}{of}" for name in ("table", "pooled", "paces") for of in ("", "_contribution")]
    tables = {f"{x}.{y}" for x in (*both, "ablations") for y in ("csv", "md", "tex")}
    drawn = ("within_moment", "within_moment_contribution", "auroc", "reliability", "tolerances")
    figures = {f"{x}.{y}" for x in drawn for y in ("png", "pdf")}
    assert set(files) == {"scores.csv", "verdict.md", "provenance.json"} | tables | figures
    scores = read_scores(made / "results" / "evidence-demo" / "scores.csv")
    assert scores["job"].nunique() == JOBS and len(scores) == 2 * JOBS
    assert set(scores["family"]) == {"residual", "plain"}
    assert set(scores["command"]) == {"make evidence SCALE=demo"}
    table = files["table.md"].decode()
    assert "| predictor | outputs |" in table and "not run" not in table
    assert "mobile" not in table and "0.001" in table  # no scores of this family
    assert "0.2" in files["table_contribution.md"].decode()
    assert files["verdict.md"].decode().count("## Label") == 2


def test_without_the_cache_it_draws_from_the_scores_alone(copied, monkeypatch):
    shutil.rmtree(copied / "cache")
    before = contents(copied)
    for file in (copied / "results" / "evidence-demo").iterdir():
        if file.name != "scores.csv":
            file.unlink()
    refuse(monkeypatch)
    run(monkeypatch, copied)
    assert contents(copied) == before


def test_a_dry_run_says_what_is_to_do_and_does_nothing(copied, monkeypatch, capsys):
    before = contents(copied)
    refuse(monkeypatch)
    run(monkeypatch, copied, "--dry")
    assert f"{JOBS} jobs, 0 to do.\n0 runs to do" in capsys.readouterr().out
    assert contents(copied) == before
    for folder in ("results", "cache"):
        shutil.rmtree(copied / folder)
    run(monkeypatch, copied, "--dry")
    assert f"{JOBS} jobs, {JOBS} to do.\n6 runs to do" in capsys.readouterr().out
    assert not (copied / "results").exists()


def test_without_the_scores_it_draws_from_the_cache(copied, monkeypatch):
    monkeypatch.setattr(comparing, "save", lambda *_: None)
    before = contents(copied)
    shutil.rmtree(copied / "results")
    refuse(monkeypatch)
    run(monkeypatch, copied)
    texts = {name: text for name, text in before.items() if not name.endswith((".png", ".pdf"))}
    assert contents(copied) == texts


def test_does_only_what_is_missing(copied, monkeypatch):
    monkeypatch.setattr(comparing, "save", lambda *_: None)
    before = contents(copied)
    shutil.rmtree(copied / "results")
    file = next(f for f in (copied / "cache" / "evidence").iterdir() if "raw" in f.read_text())
    lost = json.loads(file.read_text())[0]
    file.unlink()
    done, original = [], comparing.do
    monkeypatch.setattr(comparing, "do", lambda job, *a: (done.append(job), original(job, *a))[1])
    monkeypatch.setattr(queue, "record_history", None)  # makes recording fail
    run(monkeypatch, copied)
    (job,) = done
    assert [job.id, job.candidate, job.family] == [lost[x] for x in ("job", "candidate", "family")]
    again = contents(copied)
    assert again["table.csv"] == before["table.csv"]  # the date is in other files


def test_scores_with_other_training_settings_are_not_reused(copied, monkeypatch):
    shutil.rmtree(copied / "cache")
    learned, judged = (plan(SPECS[name], "demo") for name in ("recordings", "evidence"))
    training = training_at("demo", SPECS["recordings"].predictor)
    evidence = checked(Evidence, SPECS["evidence"].predictor, "evidence")
    other = dataclasses.replace(training, steps=3)
    scores = copied / "results" / "evidence-demo" / "scores.csv"
    assert len(comparing.known(jobs(evidence, training, learned, judged), scores)) == JOBS
    assert comparing.known(jobs(evidence, other, learned, judged), scores) == {}


def test_fits_for_some_families_and_draws_what_there_is(tmp_path, made, monkeypatch):
    monkeypatch.setattr(comparing, "save", lambda *_: None)
    shutil.copytree(made / "cache" / "histories", tmp_path / "cache" / "histories")
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    run(monkeypatch, tmp_path, "--families", "plain")
    table = contents(tmp_path)["table.md"].decode()
    row = next(line for line in table.splitlines() if "| outputs |" in line).split(" | ")
    assert [cell == "not run" for cell in row[2:5]] == [True, False, True]
    refuse(monkeypatch)
    run(monkeypatch, tmp_path, "--families", "plain")


def test_a_family_that_no_one_is_judged_on_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: run(monkeypatch, tmp_path, "--families", "mobile"))
    assert "mobile" in capsys.readouterr().err


def test_a_scale_without_evidence_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["evidence", "--scale", "paper", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        run_command(command.main)
    assert "There is no scale 'paper'" in capsys.readouterr().err
