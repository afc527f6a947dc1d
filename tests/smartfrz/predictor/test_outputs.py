"""Tests of output drift against a naive loop, and of its records during a run."""

import io
import math
from statistics import median

import pytest
import torch
from torch import nn
from torch.optim import SGD

from smartfrz import AttentionPredictor, Freezer, SmartFRZ, find_layers
from smartfrz.cka import gram_vectors
from smartfrz.predictor import WIDTH, IncrementalPredictor, OutputRecords, output_drift
from smartfrz.predictor.history import PREVIOUS, kept_before
from smartfrz.predictor.outputs import squared_displacement
from tests.helpers.reference import tailored

FRACTIONS = (0, 1 / 2, 3 / 4, 7 / 8, PREVIOUS)


def similarities(records, layers=3):
    """CKA between all records of unit vectors that move less and less."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(records, layers, 6, generator=generator, dtype=torch.float64)
    moved = (steps * 0.8 ** torch.arange(records)[:, None, None]).cumsum(0)
    unit = moved / moved.norm(dim=2, keepdim=True)
    return torch.einsum("slf,tlf->stl", unit, unit)


def naive(similarity, moved, rates):
    """The values of the last record, layer by layer."""
    last, layers = len(similarity) - 1, similarity.shape[2]

    def drift(record, fraction, layer):
        cka = similarity[record, kept_before(record, fraction), layer].item()
        return math.log10(min(max(1 - cka, 1e-5), 2))

    rows = []
    for layer in range(layers):
        row = [drift(last, fraction, layer) for fraction in FRACTIONS]
        mean = drift(min(1, last), PREVIOUS, layer)
        for record in range(1, last + 1):
            mean += 0.4 * (drift(record, PREVIOUS, layer) - mean)
        length = math.log10(moved[min(1, last), layer].item())
        for record in range(1, last + 1):
            length += 0.4 * (math.log10(moved[record, layer].item()) - length)
        rows.append([*row, mean, length])
    found = []
    for layer, row in enumerate(rows):
        middle = [median(column) for column in zip(*rows, strict=True)]
        share = rates[last, layer].item() / rates[: last + 1, layer].max().item()
        others = [layer / (layers - 1), math.log1p(last), share, math.log10(max(share, 1e-3))]
        *relative, further = [x - y for x, y in zip(row, middle, strict=True)]
        found.append([*(x + 2.5 for x in row[:-1]), *relative, *others, further])
    return torch.tensor(found)


@pytest.mark.parametrize("records", [2, 5, 40, 70])
def test_equals_a_naive_loop(records):
    similarity, rates = similarities(records), 0.1 + torch.rand(records, 3)
    moved = 10 ** torch.randn(records, 3)
    found = output_drift(similarity, moved, rates)
    assert found.shape == (3, records, WIDTH)
    torch.testing.assert_close(found[:, -1], naive(similarity, moved, rates), rtol=1e-4, atol=1e-4)
    past = slice(records - 1)
    before = output_drift(similarity[past, past], moved[past], rates[past])
    assert torch.equal(found[:, :-1], before)  # causal


def test_an_undefined_similarity_counts_as_none_at_all():
    similarity = similarities(5)
    similarity[..., 1] = math.nan
    found = output_drift(similarity, torch.ones(5, 3), torch.ones(5, 3))
    assert found.isfinite().all() and found[1, 1:, :5].eq(2.5).all()


def small():
    torch.manual_seed(0)
    predictor = AttentionPredictor(WIDTH, 8, 4, 6, encoding="outputs")
    for param in predictor.parameters():
        nn.init.normal_(param, std=0.3)
    return predictor.eval()


class Run:
    """A tiny network whose outputs are recorded by hand, too."""

    def __init__(self):
        torch.manual_seed(1)
        self.model = nn.Sequential(
            *(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU()),
            *(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)),
        )
        self.layers = find_layers(self.model, torch.zeros(2, 5))[:-1]
        self.optimizer = SGD(self.model.parameters(), 0.1)
        self.probe = [torch.randn(12, 5), torch.randn(6, 5)]
        self.grams, self.rates, self.weights = [], [], []

    def records(self, predictor):
        def rates(params):
            return [self.optimizer.param_groups[0]["lr"] for _ in params]

        return IncrementalPredictor(predictor, OutputRecords(self.model, self.probe, rates))

    def step(self, record):
        self.optimizer.param_groups[0]["lr"] *= 0.9
        self.model.train()
        self.model(torch.randn(16, 5)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.grams.append(gram_vectors(self.model, self.layers, self.probe).float())
        self.weights.append(torch.stack([tailored(layer, 1024) for layer in self.layers]))
        self.rates.append(torch.full((len(self.layers),), self.optimizer.param_groups[0]["lr"]))
        record(self.layers)

    def whole(self, predictor):
        grams = torch.stack(self.grams)
        similarity = torch.einsum("slf,tlf->stl", grams, grams)
        numel = torch.tensor([sum(p.numel() for p in layer.params) for layer in self.layers])
        moved = squared_displacement(torch.stack(self.weights), numel)
        return predictor.freeze_probability(
            output_drift(similarity, moved, torch.stack(self.rates))
        )


def test_records_of_a_run_give_the_probability_of_its_whole_history():
    run, predictor = Run(), small()
    records = run.records(predictor)
    for step in range(40):
        run.step(records.record)
        found, whole = records.freeze_probability(), run.whole(predictor)
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)
        assert (found > 0).all() == (step > 0)
        if step == 17:
            file = io.BytesIO()
            torch.save(records.state_dict(), file)
            file.seek(0)
            records = run.records(predictor)
            records.load_state_dict(torch.load(file, weights_only=True))


def test_a_checkpoint_holds_the_weights_of_one_record():
    run = Run()
    records = run.records(small())
    for _ in range(3):
        run.step(records.record)
    file = io.BytesIO()
    torch.save({"weights": records.state_dict()["history"]["weights"]}, file)
    assert len(file.getvalue()) < 2 * len(run.layers) * 1024 * 4


def test_recording_leaves_the_model_as_it_is():
    run = Run()
    records = run.records(small())
    run.model.train()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    records.record(run.layers)
    assert all(module.training for module in run.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_the_policy_freezes_by_outputs_and_by_learning_rates():
    """With a weight on the learning rate alone, layers freeze once it has fallen far enough."""
    run, predictor = Run(), small()
    with torch.no_grad():
        for mlp in (predictor.mlp_q, predictor.mlp_k, predictor.mlp_v, predictor.mlp_z):
            for param in mlp.parameters():
                param.zero_()
        for name in ("0", "2", "4"):
            predictor.mlp_v.get_submodule(name).weight[0, -3 if name == "0" else 0] = 1
            predictor.mlp_z.get_submodule(name).weight[0, 0] = 10
        predictor.mlp_z[4].bias[1] = 500.0  # softmax of 1000 share against 500
    predictor.window = 1
    policy = SmartFRZ(predictor, 2, min_records=2, guard=False, probe=run.probe, batch_size=16)
    freezer, frozen = Freezer(run.model, run.optimizer, policy), []
    rates = []
    for _ in range(20):
        run.optimizer.param_groups[0]["lr"] *= 0.9
        run.model(torch.randn(16, 5)).square().mean().backward()
        rates.append(run.optimizer.param_groups[0]["lr"])
        frozen += [(freezer.steps, layer.name) for layer in freezer.step()]
        run.optimizer.step()
        run.optimizer.zero_grad()
    first = next(i for i, rate in enumerate(rates) if i % 2 == 0 and rate < 0.5 * rates[0])
    assert len(frozen) == 2 and len(freezer.frozen) == 2
    assert set(freezer.frozen.values()) == {first}


def test_a_predictor_of_outputs_needs_a_probe_and_others_none():
    with pytest.raises(ValueError, match=r"pass batches of inputs, for example probe=\[inputs"):
        SmartFRZ(small(), 2)
    weights = AttentionPredictor(8, 4, 4, 4, encoding="raw")
    with pytest.raises(ValueError, match="reads weights alone and needs no probe"):
        SmartFRZ(weights, 2, probe=[torch.zeros(4, 3)])
    run = Run()
    with pytest.raises(ValueError, match="A probe requires batch_size"):
        SmartFRZ(small(), 2, probe=run.probe)
    with pytest.raises(ValueError, match="or a probe needs a Freezer: pass the policy to one"):
        SmartFRZ(small(), 2, probe=run.probe, batch_size=16).layers_to_freeze(run.layers, 0)
