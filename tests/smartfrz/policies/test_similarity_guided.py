"""Tests of similarity-guided freezing, with known references."""

import copy
import math

import pytest
import torch
from torch import nn

from smartfrz import SimilarityGuided, find_layers
from tests.helpers.reference import layer_cka
from tests.helpers.three_layers import BODY, STEPS, check_resume_equals_unbroken, net, start, train

PROBE = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))


def future(steps=STEPS):
    """The final model of a run from seed 0 without freezing."""
    model, optimizer, freezer = start(lambda model: None)
    train(model, optimizer, freezer, range(steps))
    return model


def guided(tolerance, reference=None, interval=2):
    reference = reference or future()
    return lambda model: SimilarityGuided(model, reference, [PROBE], interval, 8, tolerance)


def test_freezes_the_layers_whose_similarity_to_the_future_has_settled():
    """Exactly the layers whose CKA, as measured here, changed by at most the tolerance."""
    reference, curves = future(), []

    def measure(model):
        curves.append(layer_cka(model, reference, find_layers(model)[:-1], [PROBE]).tolist())

    measure(net())
    train(*start(lambda model: None), after_step=measure)
    # The measurement after n updates is the one at step n.
    changes = {name: abs(b - a) for name, a, b in zip(BODY, curves[1], curves[3], strict=True)}
    least, *others = sorted(changes, key=changes.__getitem__)
    freezer = train(*start(guided(tolerance=changes[least])), steps=range(4))
    assert freezer.frozen == {least: 3}
    freezer = train(*start(guided(tolerance=changes[others[0]])), steps=range(4))
    assert freezer.frozen == {least: 3, others[0]: 3}


def test_a_model_close_to_its_reference_freezes_at_the_first_look_after_a_step():
    model = net()
    reference = copy.deepcopy(model)
    policy = SimilarityGuided(model, reference, [PROBE], interval=2, batch_size=8, tolerance=1e-3)
    layers = find_layers(model)
    assert [policy.is_due(step) for step in range(6)] == [False, True, False, True, False, True]
    chosen = [policy.layers_to_freeze(layers, step) for step in range(4)]
    assert chosen == [[], [], [], []]
    with torch.no_grad():
        model[0].weight += 1e-4
    assert policy.layers_to_freeze(layers, 5) == layers[:-1]


def test_the_reference_runs_once_per_probe_batch_however_many_looks():
    reference, runs = future(), []
    reference.register_forward_hook(lambda *call: runs.append(call))
    batches = iter(PROBE.split(16))
    run = start(lambda model: SimilarityGuided(model, reference, batches, 1, 8, tolerance=0.01))
    frozen = train(*run).frozen
    assert len(set(frozen.values())) > 1  # several measurements, of fewer and fewer layers
    assert len(runs) == 2


def test_a_similarity_that_is_no_number_never_freezes():
    reference = future()
    nn.init.zeros_(reference[4].weight)  # its output is the same for every sample
    frozen = train(*start(guided(tolerance=math.inf, reference=reference))).frozen
    assert frozen == {"0": 3, "2": 3}


@pytest.mark.parametrize("stop", [2, 3, 5, 6])
def test_similarity_guided_resumed_equals_unbroken(stop):
    frozen = check_resume_equals_unbroken(guided(tolerance=0.03), stop)
    assert len(set(frozen.values())) > 1 and max(frozen.values()) >= stop
