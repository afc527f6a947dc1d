"""Run configs: validation, and the id as a hash of all fields."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import AMP, Pretraining, RunConfig
from experiments.errors import UserError
from experiments.methods import METHODS, interval, make_config
from experiments.options import (
    AutoFreezeOptions,
    DisplacementOptions,
    LinearOptions,
    RecordOptions,
    SimilarityOptions,
    SmartFRZOptions,
)

WORKLOAD = {"model": "resnet50", "dataset": "cifar10"}
PRETRAINED = {
    **WORKLOAD,
    "seed": 1,
    "epochs": 10,
    "pretraining": {"dataset": "cifar100", "epochs": 3, "batch_size": 64, "lr": 0.05},
}
# Finished runs are found by their ids: if ids changed, all runs would be executed again.
GOLDEN = {
    "full": "22b0f361fb08",
    "linear": "1934ca1b57d0",
    "autofreeze": "cd126ee2062d",
    "smartfrz": "3c950a1a09d2",
    "similarity": "936ad3280192",
    "displacement": "1341ff60ea26",
    "random": "c531bd70c5b2",
    "record": "f9ca1f79bb25",
    "prefix_then_body": "1f33b2c6c8da",
}

LATER_FIELDS = [("layer_decay", 1.0, 0.9), ("validation", False, True)]

some_text = st.text(max_size=5)
some_int = st.integers(1, 5000)
some_float = st.floats(0.001, 100)
some_fraction = st.floats(0.001, 1)
some_probe = st.integers(1, 100).map(lambda batches: 32 * batches)
some_schedule = st.sampled_from(["linear", "cubic"])
options = {
    "full": st.none(),
    "linear": st.builds(LinearOptions, some_fraction, some_schedule, st.booleans(), some_text),
    "autofreeze": st.builds(AutoFreezeOptions, some_int, some_float),
    "smartfrz": st.builds(SmartFRZOptions, some_text, some_int, some_int, some_float, some_text),
    "similarity": st.builds(SimilarityOptions, some_int, some_float, some_probe, some_int),
    "displacement": st.builds(DisplacementOptions, some_int, some_float),
    "record": st.builds(RecordOptions, some_int, some_int, some_probe),
}
FIELDS = {
    "model": some_text,
    "dataset": some_text,
    "seed": some_int,
    "epochs": some_float,
    "batch_size": some_int,
    "lr": some_float,
    "momentum": some_float,
    "weight_decay": some_float,
    "image_size": some_int,
    "train_images": some_int,
    "test_images": some_int,
    "curve_images": some_int,
    "augment": st.booleans(),
    "amp": st.sampled_from(AMP),
    "channels_last": st.booleans(),
    "compile": st.booleans(),
    "pretraining": st.none()
    | st.builds(Pretraining, some_text, some_float, some_int, some_int, some_float),
}


@st.composite
def configs(draw):
    method = draw(st.sampled_from(sorted(options)))
    return draw(st.builds(RunConfig, method=st.just(method), options=options[method], **FIELDS))


@given(configs(), st.sampled_from(sorted(FIELDS)), st.data())
def test_the_id_tells_any_two_values_of_a_field_apart(config, name, data):
    other = replace(config, **{name: data.draw(FIELDS[name])})
    assert (other.id == config.id) == (other == config)


@given(configs(), configs())
def test_the_id_tells_methods_and_their_options_apart(config, other):
    other = replace(config, method=other.method, options=other.options)
    assert (other.id == config.id) == (other == config)


@pytest.mark.parametrize("method", GOLDEN)
def test_ids_stay_what_they_were(method):
    assert make_config({**PRETRAINED, "method": method}).id == GOLDEN[method]


@pytest.mark.parametrize(
    ("method", "default", "other"),
    [
        ("smartfrz", {"min_records": 2}, {"min_records": 10}),
        ("linear", {"freeze": True}, {"freeze": False}),
        ("linear", {"compute": None}, {"compute": 0.75}),
        ("random", {"compute": None}, {"compute": 0.75}),
        ("prefix_then_body", {"anneal": 0.0}, {"anneal": 0.3}),
        ("prefix_then_body", {"average": 0}, {"average": 0.3}),
        ("prefix_then_body", {"freeze": True}, {"freeze": False}),
    ],
)
def test_an_option_added_later_changes_the_id_only_if_it_is_set(method, default, other):
    ids = {
        make_config({**PRETRAINED, "method": method, "options": options}).id
        for options in ({}, default, other)
    }
    assert len(ids) == 2 and GOLDEN[method] in ids


@pytest.mark.parametrize(("name", "default", "other"), LATER_FIELDS)
def test_a_field_added_later_changes_the_id_only_if_it_is_set(name, default, other):
    plain = make_config(WORKLOAD).id
    assert make_config({**WORKLOAD, name: default}).id == plain
    assert make_config({**WORKLOAD, name: other}).id != plain


def test_the_id_is_the_same_in_another_process():
    code = (
        "from experiments.methods import METHODS, make_config;"
        f"print(make_config({ {**PRETRAINED, 'method': 'smartfrz'} }).id)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == GOLDEN["smartfrz"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"epoch": 3}, ["epoch", "run", "epochs"]),
        ({"pretraining": {"dataset": "cifar100", "epoch": 3}}, ["epoch", "pretraining"]),
        ({"method": "linear", "options": {"t1": 0.5}}, ["t1", "options.linear"]),
        ({"epochs": "3"}, ["run.epochs", "'3'", "float"]),
        ({"seed": 0.5}, ["run.seed", "0.5", "int"]),
        ({"augment": 1}, ["run.augment", "bool"]),
        ({"pretraining": "imagenet"}, ["pretraining", "'imagenet'", "table"]),
        ({"pretraining": {"epochs": 3}}, ["pretraining", "dataset"]),
        ({"method": "smartfrz", "options": 3}, ["options.smartfrz", "3", "table"]),
        ({"method": "smartfrz", "options": {"records_per_epoch": 0}}, ["records_per_epoch"]),
        ({"method": "similarity", "options": {"looks_per_epoch": 0}}, ["looks_per_epoch"]),
        ({"method": "full", "options": {"t0": 0.5}}, ["full", "no options"]),
        ({"method": "smartfreeze"}, ["smartfreeze", "autofreeze", "smartfrz"]),
        ({"amp": "fp8"}, ["fp8", "bf16"]),
        ({"layer_decay": 0.0}, ["layer_decay", "above 0"]),
        ({"layer_decay": 1.1}, ["layer_decay", "at most 1"]),
        ({"epochs": 0}, ["epochs"]),
        ({"batch_size": 0}, ["batch_size"]),
        ({"lr": -0.1}, ["lr"]),
        ({"method": "linear", "options": {"how": "square"}}, ["'square'", "cubic"]),
        ({"method": "linear", "options": {"t0": 1.5}}, ["t0 = 1.5"]),
        ({"method": "linear", "options": {"compute": 75}}, ["compute = 75"]),
        ({"method": "shorter", "options": {"compute": 0}}, ["compute = 0"]),
        ({"method": "autofreeze", "options": {"percentile": 101}}, ["percentile = 101"]),
        ({"method": "smartfrz", "options": {"records_per_decision": 0}}, ["records_per_decision"]),
        ({"method": "random", "options": {"span": 0}}, ["span"]),
        ({"method": "random", "options": {"compute": 2}}, ["compute = 2"]),
        ({"method": "paced", "options": {"compute": 0}}, ["compute = 0"]),
        ({"method": "paced", "budget": 0.5}, ["'paced'", "`compute`", "no budget"]),
        ({"method": "prefix_then_body", "options": {"prefix": 2}}, ["prefix = 2"]),
        ({"method": "prefix_then_body", "options": {"anneal": 3}}, ["anneal = 3"]),
        ({"method": "prefix_then_body", "options": {"spread": -1}}, ["spread = -1"]),
        (
            {"method": "prefix_then_body", "options": {"spread": 0.4, "anneal": 0.3}},
            ["spread", "anneal", "choose one"],
        ),
        (
            {"method": "prefix_then_body", "options": {"average": 0.3, "anneal": 0.3}},
            ["average", "anneal", "choose one"],
        ),
        (
            {"method": "prefix_then_body", "options": {"average": 0.3, "freeze": False}},
            ["average", "freeze = false", "choose one"],
        ),
        ({"method": "unfreezing", "options": {"over": -1}}, ["over = -1"]),
        ({"method": "simfreeze", "options": {"probe_images": 3}}, ["probe_images = 3"]),
        ({"method": "similarity", "options": {"probe_images": 33}}, ["probe_images = 33"]),
        ({"method": "record", "options": {"probe_images": 0}}, ["probe_images = 0"]),
    ],
)
def test_a_mistake_is_an_error_that_names_it(values, names):
    with pytest.raises(UserError) as error:
        make_config(WORKLOAD | values)
    for name in names:
        assert name in str(error.value)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="dataset"):
        make_config({"model": "resnet50"})


def test_looks_may_be_fewer_than_epochs_and_a_whole_number_stays_one():
    def options(looks):
        values = {"method": "similarity", "options": {"looks_per_epoch": looks}}
        return make_config(WORKLOAD | values).options

    assert options(0.25).looks_per_epoch == 0.25
    assert isinstance(options(1).looks_per_epoch, int)
    assert interval(20, options(0.25).looks_per_epoch) == 80


def test_an_int_is_good_for_a_float_and_makes_the_same_run():
    assert make_config(WORKLOAD | {"epochs": 10}).id == make_config(WORKLOAD | {"epochs": 10.0}).id


def test_a_method_without_options_gets_its_defaults():
    assert make_config(WORKLOAD | {"method": "linear"}).options == LinearOptions()
    assert make_config(WORKLOAD).options is None


@pytest.mark.parametrize("times", [0.001, 6])
def test_an_interval_of_autofreeze_has_at_least_one_step(times):
    build = METHODS["autofreeze"].policy
    assert build
    with pytest.raises(UserError, match=rf"intervals_per_epoch = {times} .*steps of an epoch, 5"):
        build(AutoFreezeOptions(times), SimpleNamespace(steps_per_epoch=5))
