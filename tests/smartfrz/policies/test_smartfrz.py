"""Tests of SmartFRZ, with stub predictors."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from smartfrz import AttentionPredictor, Freezer, SimilarityGuided, SmartFRZ, find_layers
from smartfrz.predictor import ENCODINGS, kept_before
from smartfrz.predictor.history import PATH
from tests.helpers.reference import tailored
from tests.helpers.three_layers import BODY, STEPS, check_resume_equals_unbroken, net, start, train


class Stub(AttentionPredictor):
    """A predictor whose probabilities are a function of the windows; records its arguments.

    A record is its own key and value, so the windows consist of the weights themselves: (L, T, 8),
    in any order, T at most 3.
    """

    def __init__(self, answer, **options):
        super().__init__(8, 2, 8, 2, window=3, encoding="raw", **options)
        self.mlp_q = self.mlp_k = self.mlp_v = nn.Identity()
        self.answer, self.asked = answer, []

    def decide(self, newest, keys, values, attended):
        assert (attended == attended[0]).all() and torch.equal(keys, values)
        windows = values[:, attended[0]]
        self.asked.append((newest, windows))
        probability = self.answer(windows)
        return torch.stack([1 - probability, probability], dim=1).log()


def always(*probabilities, **options):
    """A stub whose probabilities depend only on the number of layers."""
    by_layers = {len(each): torch.tensor(each) for each in probabilities}
    return Stub(lambda windows: by_layers[len(windows)], **options)


def smart(predictor, interval=4, records_per_decision=1, **options):
    options = {"min_records": 2, "guard": False, **options}
    return start(lambda model: SmartFRZ(predictor, interval, records_per_decision, **options))


def test_freezes_all_but_the_head_once_there_are_two_records_and_then_asks_no_more():
    predictor = always([1.0, 1.0, 1.0])
    assert train(*smart(predictor)).frozen == dict.fromkeys(BODY, 4)
    assert len(predictor.asked) == 2


def test_freezes_nothing_if_the_predictor_says_so():
    predictor = always([0.0, 0.0, 0.0])
    assert train(*smart(predictor)).frozen == {}
    assert len(predictor.asked) == 3  # at steps 0, 4 and 8


def test_freezes_nothing_while_a_warm_up_holds_the_weights_still():
    predictor = always([1.0, 1.0, 1.0])
    model, optimizer, freezer = smart(predictor, interval=2)
    optimizer.param_groups[0]["lr"] = 0.0
    train(model, optimizer, freezer, range(6))
    assert freezer.frozen == {}
    optimizer.param_groups[0]["lr"] = 0.1
    assert train(model, optimizer, freezer, range(6, STEPS)).frozen == dict.fromkeys(BODY, 8)


def train_with_overflows(model, optimizer, freezer, overflows, steps=12):
    """Trains with a GradScaler, which skips the steps whose gradients are infinite."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for step in range(steps):
        loss = model(torch.randn(8, 3)).square().mean()
        scaler.scale(loss * (math.inf if step in overflows else 1.0)).backward()
        freezer.step()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return freezer


def test_freezes_nothing_at_a_record_since_which_every_step_was_skipped():
    """Even if the predictor takes this for convergence: it says so at step 5 alone."""
    predictor = Stub(lambda windows: torch.full((len(windows),), float(len(predictor.asked) == 6)))
    assert train_with_overflows(*smart(predictor, interval=1), overflows=[4]).frozen == {}
    predictor.asked.clear()
    assert train_with_overflows(*smart(predictor, interval=1), overflows=[]).frozen != {}


def test_records_since_which_every_step_was_skipped_do_not_count():
    run = smart(always([1.0, 1.0, 1.0]), interval=1, min_records=4)
    assert train_with_overflows(*run, overflows=range(4)).frozen == dict.fromkeys(BODY, 7)


@pytest.mark.parametrize("min_records", [1, 2, 3, 5])
def test_decides_about_a_layer_once_it_has_enough_records(min_records):
    """And not at its first one, before which it cannot have moved."""
    freezer = train(*smart(always([1.0, 1.0, 1.0]), interval=2, min_records=min_records))
    assert freezer.frozen == dict.fromkeys(BODY, 2 * max(1, min_records - 1))


def test_by_default_waits_until_the_times_that_drift_looks_back_to_differ():
    moments = [fraction for fraction in ENCODINGS["drift"].fractions if fraction != PATH]
    needed = SmartFRZ(always(), interval=1).min_records

    def are_different(newest):
        return len({kept_before(newest, fraction) for fraction in moments}) == len(moments)

    assert [are_different(newest) for newest in range(needed)] == [False] * (needed - 1) + [True]


def train_on_parity(learning_rate, steps=150, guard=True):
    """Trains an MLP whose loss does not fall at first; the bundled predictor decides."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    )
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    policy = SmartFRZ(AttentionPredictor.from_pretrained(), interval=5, guard=guard)
    freezer = Freezer(model, optimizer, policy, total_steps=600)
    inputs = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, :2] > 0).sum(dim=1) % 2
    drawn = torch.Generator().manual_seed(1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        batch = torch.randint(512, (64,), generator=drawn)
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    return freezer.frozen


@pytest.mark.parametrize("warmup", [1, 100])
def test_a_plateau_at_the_start_is_not_taken_for_convergence(warmup):
    assert train_on_parity(lambda step: 0.1 * min(1.0, (step + 1) / warmup)) == {}


def test_the_guard_recognises_a_longer_plateau():
    """Here the learning rate is annealed on the plateau, before it restarts."""

    def learning_rate(step):
        return 0.05 * (1 + math.cos(math.pi * (step % 150) / 150))

    assert train_on_parity(learning_rate) == {}
    with pytest.warns(UserWarning, match="in the first quarter of the run"):
        train_on_parity(learning_rate, guard=False)


def test_freezes_the_layers_that_the_predictor_means_in_any_order():
    predictor = always([0.0, 0.9, 0.0], [0.0, 0.9], [0.0])
    assert train(*smart(predictor, interval=3)).frozen == {"2": 3, "4": 6}


def test_with_a_cumulative_encoding_freezes_in_order():
    predictor = always([0.9, 0.0, 0.9], [0.0, 0.9], [0.9])
    predictor.encoding = "drift"
    assert train(*smart(predictor, interval=3)).frozen == {"0": 3}


class Words(nn.Module):
    """Two embeddings, two linear layers behind them, and a linear head."""

    def __init__(self):
        super().__init__()
        self.word, self.place = nn.Embedding(10, 4), nn.Embedding(3, 4)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, ids):
        embedded = self.word(ids) + self.place(torch.arange(ids.shape[1]))
        return self.head(self.second(self.first(embedded).tanh()).tanh())


@pytest.mark.parametrize(
    ("probabilities", "frozen"),
    [
        ([1.0, 1.0, 0.0, 1.0], {"second"}),
        ([0.0, 0.0, 1.0, 0.0], {"word", "place", "first"}),
        ([0.0, 1.0, 0.0, 0.0], set()),
    ],
)
def test_an_embedding_freezes_with_the_first_layer_behind_it(probabilities, frozen):
    """The weights of an embedding do not move, except for the few words in the batches."""
    model, ids = Words(), torch.randint(0, 10, (8, 3))
    optimizer = SGD(model.parameters(), 0.1)
    policy = SmartFRZ(always(probabilities), interval=1, min_records=2, guard=False)
    freezer = Freezer(model, optimizer, policy, find_layers(model, ids))
    for _ in range(2):
        model(ids).square().mean().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    assert freezer.frozen.keys() == frozen


def test_freezes_above_the_threshold_only():
    """The threshold of the predictor, or the one passed to the policy."""
    assert train(*smart(always([0.5, 0.51, 0.7], [0.5]))).frozen == {"2": 4, "4": 4}
    for by_predictor, given in ({"threshold": 0.6}, {}), ({}, {"threshold": 0.6}):
        predictor = always([0.5, 0.51, 0.7], [0.5, 0.51], **by_predictor)
        assert train(*smart(predictor, **given)).frozen == {"4": 4}


@pytest.mark.parametrize(("interval", "records_per_decision"), [(1, 1), (1, 2), (2, 2), (3, 1)])
def test_records_at_intervals_and_decides_in_one_call(interval, records_per_decision):
    predictor = always([0.0, 0.0, 0.0])
    model, optimizer, freezer = smart(predictor, interval, records_per_decision)
    body, records, expected = find_layers(model)[:-1], [], []
    for step in range(STEPS):
        if step % interval == 0:
            records.append(torch.stack([tailored(x, 8) for x in body]))
        is_due = step % (interval * records_per_decision) == 0
        assert freezer.policy.is_due(step) == is_due
        if is_due:
            expected.append(torch.stack(records[-3:], dim=1))
        train(model, optimizer, freezer, range(step, step + 1))
    for (newest, windows), by_hand in zip(predictor.asked, expected, strict=True):
        assert torch.equal(newest, by_hand[:, -1])
        assert torch.equal(windows.sort(dim=1).values, by_hand.sort(dim=1).values)


def test_decides_at_every_record_by_default():
    policy = SmartFRZ(always(), interval=10)
    assert [step for step in range(25) if policy.is_due(step)] == [0, 10, 20]


def test_asks_about_what_still_trains_and_remembers_what_is_frozen():
    predictor = always([0.0, 1.0, 0.0], [0.0, 0.0])
    freezer = train(*smart(predictor, interval=3))
    assert freezer.frozen == {"2": 3}
    assert [len(windows) for _, windows in predictor.asked] == [3, 3, 2, 2]
    assert freezer.policy.state_dict()["history"]["names"] == BODY


def quiet_layers(windows):
    """Probability 1 for layers that hardly moved over three records, otherwise 0."""
    if windows.shape[1] < 3:
        return torch.zeros(len(windows))
    return ((windows.amax(dim=1) - windows.amin(dim=1)).norm(dim=1) < 0.065).float()


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resumed_equals_unbroken(stop):
    frozen = check_resume_equals_unbroken(
        lambda model: SmartFRZ(Stub(quiet_layers), 1, min_records=2, guard=False), stop
    )
    assert len(set(frozen.values())) > 1 and max(frozen.values()) >= stop


def test_processes_with_the_same_weights_decide_the_same():
    """Their random states make no difference, not even to the sampling of the weights."""
    torch.manual_seed(4)
    predictor = AttentionPredictor(8, 4, 4, 4, window=3, encoding="displacement")
    for param in predictor.parameters():
        nn.init.normal_(param, std=1.0)
    frozen = []
    for rank in range(2):
        model, optimizer, freezer = start(
            lambda model: SmartFRZ(predictor, 1, min_records=2, guard=False)
        )
        torch.manual_seed(rank)
        frozen.append(train(model, optimizer, freezer).frozen)
    assert frozen[0] == frozen[1] and len(set(frozen[0].values())) > 1


def test_a_history_of_another_size_is_refused():
    policy = SmartFRZ(Stub(quiet_layers), 1)
    policy.layers_to_freeze(find_layers(net()), 0)
    other = SmartFRZ(AttentionPredictor(size=4), 1)
    with pytest.raises(ValueError, match="Resume with the predictor that was used before"):
        other.load_state_dict(policy.state_dict())


@pytest.mark.parametrize("interval", [0, -1])
def test_intervals_are_at_least_one(interval):
    with pytest.raises(ValueError, match="at least 1, not"):
        SmartFRZ(Stub(quiet_layers), interval)
    with pytest.raises(ValueError, match="at least 1, not"):
        SmartFRZ(Stub(quiet_layers), 1, records_per_decision=interval)
    with pytest.raises(ValueError, match="at least 1, not"):
        SmartFRZ(Stub(quiet_layers), 1, min_records=interval)
    with pytest.raises(ValueError, match="at least 1, not"):
        SimilarityGuided(net(), net(), [torch.randn(8, 3)], interval, 8)
