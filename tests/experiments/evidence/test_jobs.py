"""Tests of the jobs: no candidate is evaluated on data from which it was trained."""

import dataclasses
import math

import pytest
import torch

from experiments.data.images import parse_name
from experiments.evidence import jobs as evidence
from experiments.evidence.jobs import Evidence, do, gathered, jobs, values_of
from experiments.evidence.simple_predictors import REGRESSIONS, RIVAL, RULES
from experiments.models.pretraining import PUBLISHED
from experiments.models.registry import families, family
from experiments.plan import plan, training_at
from experiments.predictor.fitting import Training
from experiments.predictor.metrics import metrics
from experiments.spec import SCALES, load_spec
from experiments.validation import checked
from smartfrz.predictor.labels import LABELS, future_contribution, stabilised
from tests.helpers.digits import ignore, tiny_run
from tests.helpers.recordings import made_up

TRAINING = Training("drift", tolerance=0.1, steps=2, lr=1e-3, weight_decay=0.0, size=16)
COMPARED = Evidence(
    seeds=[0, 1],
    records_per_epoch=[10, 20],
    tolerances=[0.1, 0.3],
    labels={"cka": {}, "contribution": {"tolerance": 0.5}},
    candidates={"drift": {}, "raw": {"encoding": "raw"}},
    ablations={"window 3": {"window": 3}},
)
MODELS = ("residual", "plain", "mobile", "plain_deep")


def recorded(dataset):
    options = {"records_per_epoch": 20}
    return [tiny_run("record", model=m, dataset=dataset, options=options) for m in MODELS]


LEARNED, JUDGED = recorded("digits[5:10]"), recorded("digits[0:5]")
JOBS = jobs(COMPARED, TRAINING, LEARNED, JUDGED)


@pytest.mark.parametrize("spec", ["predictor", "recordings"])
@pytest.mark.parametrize("scale", SCALES)
def test_no_data_that_candidates_are_judged_on_is_learned_from(scale, spec):
    """In the project's own specs, neither runs nor classes overlap, pretraining included."""
    learning, judging = load_spec(spec), load_spec("evidence")
    learned = plan(learning, scale) if scale in learning.scales else []
    judged = plan(judging, scale) if scale in judging.scales else []
    assert not {each.id for each in learned} & {each.id for each in judged}
    sources = [each.pretraining.dataset for each in judged if each.pretraining]
    learned_classes = classes(each.dataset for each in learned)
    assert not learned_classes & classes([*sources, *(each.dataset for each in judged)])
    # Evaluation data of any scale is not training data at another scale.
    assert learned_classes <= classes(["cifar100", "digits[5:10]", "sst2"])
    judged_classes = classes(each.dataset for each in judged)
    assert judged_classes <= classes(["cifar10", "digits[0:5]", "mrpc", "cola"])


def classes(datasets):
    """Returns (data set, class) for all classes in some data sets of images; a text's are one."""
    names = set(datasets)
    texts = names & {"sst2", "mrpc", "cola", *PUBLISHED}
    parsed = [parse_name(name) for name in names - texts]
    images = {(whole, each) for whole, first, end in parsed for each in range(first, end)}
    return images | {(name, 0) for name in texts}


def test_the_real_networks_are_among_the_families_left_out():
    """Fine-tuning and training from scratch, and more than one optimizer and schedule."""
    for name in ("recordings", "evidence"):
        runs = plan(load_spec(name), "small")
        by_family = {each: [c for c in runs if family(c.model) == each] for each in families()}
        assert all(by_family.values())
        small = ("residual", "plain", "mobile", "attention")
        for each in small:
            assert {config.pretraining is None for config in by_family[each]} == {True, False}
        assert {c.pretraining.dataset for c in by_family["efficientnet"]} == {"imagenet"}
        assert {c.pretraining.dataset for c in by_family["language"]} == {"sentence_pairs"}
        assert {c.schedule for c in runs} >= {"cosine", "constant", "step", "restarts"}
        assert {c.optimizer for c in runs} == {"sgd", "adamw"}
        assert any(c.warmup for c in runs) and any(c.layer_decay < 1 for c in runs)


@pytest.mark.parametrize("scale", load_spec("evidence").scales)
def test_the_project_s_own_spec_is_whole(scale):
    learning, judging = load_spec("recordings"), load_spec("evidence")
    compared = checked(Evidence, judging.predictor, "evidence")
    training = training_at(scale, learning.predictor)
    learned, judged = plan(learning, scale), plan(judging, scale)
    planned = jobs(compared, training, learned, judged)
    assert len({job.id for job in planned}) == len(planned)
    assert [*compared.labels] == [*LABELS]
    assert compared.labels["cka"].get("tolerance", training.tolerance) in compared.tolerances
    assert {each.options for each in learned} == {each.options for each in judged}
    recorded = judged[0].options.records_per_epoch
    assert all(recorded % pace == 0 for pace in compared.records_per_epoch)
    assert compared.records_per_epoch[0] == recorded // training.stride


def test_a_run_that_is_both_learned_and_judged_is_refused():
    with pytest.raises(AssertionError):
        jobs(COMPARED, TRAINING, LEARNED, [*JUDGED, LEARNED[0]])


def test_candidates_have_all_seeds_and_rivals_all_tolerances():
    found = [
        (j.candidate, j.seed, j.training.tolerance)
        for j in JOBS
        if j.family == "plain" and j.training.label == "cka"
    ]
    expected = [(name, seed, 0.1) for name in ("drift", "raw") for seed in (0, 1)]
    expected += [("window 3", 0, 0.1)]
    rivals = [*REGRESSIONS, *RULES]
    assert found == expected + [(name, 0, t) for t in (0.1, 0.3) for name in rivals]
    found = [
        (j.candidate, j.seed, j.training.tolerance)
        for j in JOBS
        if j.family == "plain" and j.training.label == "contribution"
    ]
    expected = [(name, seed, 0.5) for name in ("drift", "raw") for seed in (0, 1)]
    assert found == expected + [(name, 0, 0.5) for name in rivals]
    assert {job.family for job in JOBS} == {"residual", "plain", "mobile"}
    (changed,) = {job.training for job in JOBS if job.candidate == "window 3"}
    assert changed == dataclasses.replace(TRAINING, window=3)


def test_a_job_s_id_is_that_of_all_that_its_outcome_depends_on():
    assert len({job.id for job in JOBS}) == len(JOBS)
    assert [job.id for job in jobs(COMPARED, TRAINING, LEARNED, JUDGED)] == [j.id for j in JOBS]
    fewer = jobs(COMPARED, TRAINING, LEARNED[1:], JUDGED)
    assert not {job.id for job in fewer} & {job.id for job in JOBS}


@pytest.fixture
def loaded(monkeypatch):
    """Replaces recorded histories by generated ones; collects the requested configs and sizes."""
    asked = []

    def load(config, size):
        asked.append((config, size))
        return made_up(len(asked))

    monkeypatch.setattr(evidence, "load_history", load)
    return asked


@pytest.mark.parametrize("label", ["cka", "contribution"])
@pytest.mark.parametrize("candidate", ["drift", *REGRESSIONS, *RULES])
@pytest.mark.parametrize("left_out", ["plain", "mobile"])
def test_who_is_judged_on_a_family_has_learned_from_the_others(loaded, candidate, left_out, label):
    sought = (candidate, left_out, label)
    job = next(j for j in JOBS if (j.candidate, j.family, j.training.label) == sought)
    rows = do(job, LEARNED, JUDGED, COMPARED.records_per_epoch, ignore)
    assert {size for _, size in loaded} == {16}
    configs = [config for config, _ in loaded]
    assert [c for c in configs if c in LEARNED] == [c for c in LEARNED if not is_of(c, left_out)]
    assert [c for c in configs if c in JUDGED] == [c for c in JUDGED if is_of(c, left_out)]
    # Of 20 records of 4 layers: every second one, then all, each time without the first.
    judged = len([config for config in JUDGED if is_of(config, left_out)])
    assert [row["examples"] for row in rows] == [judged * 9 * 4, judged * 19 * 4]
    for row, pace in zip(rows, [10, 20], strict=True):
        keys = ("label", "candidate", "family", "seed", "tolerance", "records_per_epoch")
        tolerance = {"cka": 0.1, "contribution": 0.5}[label]
        assert [row[key] for key in keys] == [label, candidate, left_out, 0, tolerance, pace]
        assert row["threshold"] == rows[0]["threshold"]
        for metric in ("auroc", "within_run", "within_moment", "within_layer"):
            assert 0 <= row[metric] <= 1
        has_probabilities = candidate == "drift" or (candidate in REGRESSIONS and label == "cka")
        assert bool(row["bins"]) is has_probabilities
        for kind in ("calibration_error", "calibration_error_scratch"):
            assert math.isnan(row[kind]) is not has_probabilities
        assert math.isnan(row["calibration_error_fine_tuning"])  # all are from scratch


def is_of(config, name):
    return family(config.model) == name


def test_only_predictors_learn_step_by_step(loaded):
    steps = []
    for job in JOBS:
        if job.family == "residual" and job.training.tolerance == 0.1:
            steps.clear()
            do(job, LEARNED, JUDGED, [20], lambda step, loss: steps.append(step))
            assert len(steps) == (2 if job.learns else 0)


def shifted(history):
    """Makes the layers of pretrained networks stable earlier."""
    later = history.cka.roll(-5, dims=0)
    later[-5:] = 1
    return dataclasses.replace(history, cka=later) if history.is_pretrained else history


def test_the_kinds_of_runs_are_calibrated_apart(monkeypatch):
    made = iter([made_up(i, is_pretrained=torch.tensor(i % 2 == 0)) for i in range(8)])
    monkeypatch.setattr(evidence, "load_history", lambda config, size: shifted(next(made)))
    job = next(j for j in JOBS if (j.candidate, j.family) == (RIVAL, "plain"))
    row = do(job, LEARNED, JUDGED, [20], ignore)[0]
    errors = [row[f"calibration_error_{kind}"] for kind in ("fine_tuning", "scratch")]
    assert all(each > 0 for each in errors) and errors[0] != errors[1]


def test_future_contributions_are_ranked_by_their_numbers():
    """Not by the label that is made from them: who knows the numbers is perfect."""
    history, training = made_up(), dataclasses.replace(TRAINING, label="contribution")
    values = values_of(history, training)
    assert torch.equal(values, -future_contribution(history.probe_contribution))
    labels, scores = gathered(lambda each: values.float(), [history], training, 1)
    found = metrics(labels, scores, 0.5, False, [values[1:]])
    names = ("auroc", "within_run", "within_moment", "within_layer")
    assert [found[name] for name in names] == [1] * 4
    by_label = metrics(labels, [each.float() for each in labels], 0.5, False, [values[1:]])
    assert by_label["auroc"] == 1 > by_label["within_run"]


def test_labels_are_those_of_all_records_though_few_are_judged():
    """A deviating CKA between two evaluated records makes the earlier ones unstable."""
    history = made_up(records=9, layers=2)
    history.cka[:] = 0.5
    history.cka[3, 0] = 0.9
    labels, scores = gathered(lambda thin: thin.weights[..., 0], [history] * 2, TRAINING, stride=2)
    assert [each.tolist() for each in labels] == [[[False, True], *[[True, True]] * 3]] * 2
    assert all(torch.equal(each, history.weights[2::2, :, 0]) for each in scores)


def test_who_knows_the_labels_is_perfect():
    history = made_up()
    labels, scores = gathered(
        lambda each: stabilised(each.cka, 0.1).float(), [history], TRAINING, 1
    )
    assert metrics(labels, scores, 0.5, True)["auroc"] == 1
