"""Tests of SVCCA: its definition and invariances, and the layers that the policy freezes."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baselines import SVCCA
from baselines.svcca import svcca
from experiments.runs.training_loop import train
from smartfrz import Freezer, find_layers
from tests.helpers.digits import ignore, tiny_run


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uneven(n, p, seed):
    """Features whose directions differ in variance, with a mean."""
    return randn(n, p, seed=seed) / torch.arange(1, p + 1) ** 2 @ randn(p, p, seed=seed + 1) + 3


def naive_svcca(x, y, variance=0.99):
    """Raghu et al., Section 2.1: SVD of each side, then CCA by its covariance matrices."""
    sides = []
    for features in (x.double().numpy(), y.double().numpy()):
        centred = features - features.mean(axis=0)
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        part = np.cumsum(singular**2) / np.sum(singular**2)
        kept = next(k for k in range(1, len(part) + 1) if part[k - 1] >= variance)
        sides.append(centred @ directions[:kept].T)
    x_kept, y_kept = sides
    x_root, y_root = (np.linalg.inv(np.linalg.cholesky(side.T @ side)) for side in sides)
    correlations = np.linalg.svd(x_root @ x_kept.T @ y_kept @ y_root.T, compute_uv=False)
    return float(np.mean(correlations))


shapes = st.tuples(st.integers(3, 30), st.integers(1, 12), st.integers(1, 40), st.integers(0, 999))


@given(shapes, st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=40)
def test_equals_a_naive_version(shape, variance):
    n, p, q, seed = shape
    x, y = uneven(n, p, seed), uneven(n, q, seed + 5)
    expected = naive_svcca(x, y, variance)
    assert svcca(x, y, variance).item() == pytest.approx(expected, abs=1e-6)
    assert svcca(y, x, variance).item() == pytest.approx(expected, abs=1e-6)


@given(shapes, st.floats(1e-3, 1e3), st.floats(-50, 50))
@settings(max_examples=20)
def test_invariances(shape, scale, offset):
    n, p, q, seed = shape
    x, y = uneven(n, p, seed), uneven(n, q, seed + 5)
    rotation = torch.linalg.qr(randn(p, p, seed=seed)).Q
    value = svcca(x, y)
    assert value.shape == () and value.dtype == torch.float64 and 0 <= value <= 1
    assert svcca(scale * x @ rotation + offset, y) == pytest.approx(value.item(), abs=1e-6)
    assert svcca(x, scale * x @ rotation + offset) == pytest.approx(1, abs=1e-6)


def test_a_linear_map_of_the_kept_directions_changes_nothing_and_faint_directions_do_not_count():
    x = randn(200, 3)
    stretched = x @ torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.float64)
    assert svcca(x, stretched) == pytest.approx(1)
    faint = torch.cat([x, 1e-3 * randn(200, 3, seed=1)], dim=1)
    assert svcca(faint, torch.cat([x, 1e-3 * randn(200, 3, seed=2)], dim=1)) > 0.999
    assert svcca(randn(4000, 3), randn(4000, 3, seed=1)) < 0.1


def test_complex_features_count_as_pairs_of_real_ones():
    x, y = (torch.complex(randn(50, 4, seed=i), randn(50, 4, seed=i + 2)) for i in range(2))
    real = [torch.cat([f.real, f.imag], dim=1) for f in (x, y)]
    assert svcca(x, y) == pytest.approx(svcca(*real).item())


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_is_undefined_if_a_side_is_constant_or_not_finite(value):
    other = torch.full((9, 2), value)
    assert svcca(randn(9, 3), other).isnan() and svcca(other, other).isnan()


def test_mistakes_are_errors():
    with pytest.raises(ValueError, match=r"not \(3, 2\) and \(4, 2\)"):
        svcca(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match="variance=1"):
        svcca(torch.ones(3, 2), torch.ones(3, 2), variance=1)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        SVCCA(nn.Linear(2, 2), [torch.ones(3, 2)], interval=0, batch_size=3)


class Branches(nn.Module):
    """Three branches that do not depend on each other, and a head."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(16, 3) for _ in range(3))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(sum(branch(x).tanh() for branch in self.branches))


def look(policy, layers, step=0):
    return [layer.name for layer in policy.layers_to_freeze(layers, step)]


def reset(module):
    nn.init.normal_(module.weight)


@pytest.mark.parametrize(("changes", "expected"), [(0, []), (1, ["0"]), (2, ["0", "1"])])
def test_layers_freeze_from_the_front_up_to_the_first_that_changes(changes, expected):
    torch.manual_seed(0)
    model = Branches()
    layers = find_layers(model, torch.randn(2, 16))
    policy = SVCCA(model, [torch.randn(100, 16) for _ in range(2)], interval=1, batch_size=50)
    assert look(policy, layers) == []  # nothing to compare with
    reset(model.branches[changes])
    reset(model.head)
    assert look(policy, layers) == [f"branches.{name}" for name in expected]
    assert [*policy.state_dict()["last"]] == [layer.name for layer in layers[:-1]]


def test_nothing_freezes_between_looks_nor_if_no_weight_has_moved():
    torch.manual_seed(0)
    model = Branches()
    layers = find_layers(model, torch.randn(2, 16))
    policy = SVCCA(model, [torch.randn(100, 16)], interval=3, batch_size=50)
    found = [look(policy, layers, step) for step in range(8)]
    assert found == [[]] * 8
    with torch.no_grad():
        model.branches[0].weight.mul_(1.001)
    assert look(policy, layers, 8) == [layer.name for layer in layers[:-1]]
    assert [policy.is_due(step) for step in range(4)] == [False, False, True, False]


def test_the_tolerance_is_a_distance_of_the_similarity_from_one():
    """Each position of a convolution's output is an example, each channel a feature."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    layers = find_layers(model, torch.randn(2, 3, 6, 6))
    probe = [torch.randn(5, 3, 6, 6) for _ in range(2)]

    def outputs():
        with torch.no_grad():
            return model[0](torch.cat(probe)).permute(0, 2, 3, 1).reshape(-1, 4)

    before, start = outputs(), model[0].weight.detach().clone()
    reset(model[0])
    distance = 1 - naive_svcca(before, outputs())
    after = model[0].weight.detach().clone()
    for tolerance, is_frozen in ((distance + 1e-4, True), (distance - 1e-4, False)):
        policy = SVCCA(model, probe, 1, 5, tolerance)
        for weight in (start, after):
            model[0].weight.data = weight.clone()
            found = look(policy, layers)
        assert found == (["0"] if is_frozen else [])


def test_of_many_positions_the_same_ones_are_compared_each_time():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    layers = find_layers(model, torch.randn(2, 1, 8, 8))
    policy = SVCCA(model, [torch.randn(4, 1, 66, 66) for _ in range(2)], 1, 4, tolerance=1e-5)
    random = torch.get_rng_state()
    assert look(policy, layers) == []
    assert torch.equal(torch.get_rng_state(), random)
    assert policy.state_dict()["last"]["0"].shape == (4096, 2)
    with torch.no_grad():
        model[0].weight.mul_(1.01)
    assert look(policy, layers) == ["0"]


@pytest.mark.parametrize("cut", [4, 26])
def test_a_resumed_policy_decides_the_same(cut):
    """Cut between two looks, before the first freeze and between the two."""

    def run(cut=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
        model.append(nn.Linear(3, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        probe = [torch.randn(60, 16)]
        freezer = Freezer(model, optimizer, SVCCA(model, probe, 2, 8))
        for step in range(40):
            if step == cut:
                saved = io.BytesIO()
                torch.save(freezer.state_dict(), saved)
                saved.seek(0)
                freezer = Freezer(model, optimizer, SVCCA(model, probe, 2, 8), freezer.layers)
                freezer.load_state_dict(torch.load(saved, weights_only=True))
            optimizer.param_groups[0]["lr"] = 1 - step / 40
            x = torch.randn(8, 16)
            nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            freezer.step()
            optimizer.step()
            optimizer.zero_grad()
        return freezer.frozen

    assert run(cut) == run() == {"0": 25, "2": 27}


def test_runs_of_the_harness_freeze_by_it():
    run, _ = train(tiny_run("svcca", options={"looks": 6, "tolerance": 1.0}), ignore, ignore)
    # Any similarity is within a tolerance of 1: the second look, after step 9, freezes all.
    assert set(run.freezer.frozen.values()) == {9}
    assert len(run.freezer.frozen) == len(run.freezer.layers) - 1
