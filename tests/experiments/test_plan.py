"""Expansion of specs into runs: order, inheritance, and errors for mistakes."""

from dataclasses import replace
from functools import cache

import pytest

from experiments import plan as planning
from experiments.config import Pretraining
from experiments.options import AutoFreezeOptions, LinearOptions
from experiments.plan import labelled_plan, plan
from experiments.spec import SCALES, SPECS, Spec, load_spec
from tests.helpers.digits import save_random_predictor

TABLES = sorted(path.stem for path in SPECS.glob("*.toml"))
PLANS = [(table, scale) for table in TABLES for scale in load_spec(table).scales]
METHODS = ["full", "smartfrz", "linear"]


@pytest.fixture(scope="module")
def saved_predictors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictors")
    for name in ("drift", "outputs", "raw"):
        save_random_predictor(folder / name)
    return folder


@pytest.fixture(autouse=True)
def bundled_predictors(saved_predictors, monkeypatch):
    """Bundled predictors with random weights, and no published weights."""
    monkeypatch.setattr("smartfrz.predictor.files._BUNDLED", saved_predictors)
    monkeypatch.setattr(planning, "has_published_weights", lambda model: False)
    planning.fingerprint.cache_clear()
    yield
    planning.fingerprint.cache_clear()


@cache
def planned(table, scale):
    """The runs of a table, with their methods."""
    return labelled_plan(load_spec(table), scale)


def small_spec(methods=("full",), options=None, **scale):
    values = {"models": ["plain"], "datasets": ["digits"], "seeds": [0], "run": {}}
    return Spec("A table", list(methods), {"demo": values | scale}, options or {})


@pytest.mark.parametrize(("table", "scale"), PLANS)
def test_every_spec_is_valid_at_every_scale(table, scale):
    runs = planned(table, scale)
    assert len({config.id for config in runs}) == len(runs) > 0


def test_a_scale_may_have_more_workloads_with_their_own_values():
    more = [{"models": ["mobile"], "datasets": ["digits"], "seeds": [1, 2], "run": {"lr": 0.5}}]
    runs = plan(small_spec(run={"lr": 0.1}, more=more), "demo")
    found = [(config.model, config.seed, config.lr) for config in runs]
    assert found == [("plain", 0, 0.1), ("mobile", 1, 0.5), ("mobile", 2, 0.5)]


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        ({"models": ["vgg99"]}, "vgg99"),
        ({"dataset": {"cifar10": {}}}, "dataset.cifar10"),
        ({"epochs": 3}, "Unknown key epochs in scales.demo.more"),
        ({"methods": ["linear"]}, "scales.demo.methods.linear is not used here: choose from full"),
        ({"without": ["linear *"]}, r"without = 'linear \*' fits none of full: remove it"),
    ],
)
def test_a_mistake_in_more_workloads_is_named(workload, says):
    more = {"models": ["mobile"], "datasets": ["digits"], "seeds": [1], "run": {}} | workload
    with pytest.raises(ValueError, match=says):
        plan(small_spec(more=[more]), "demo")


def test_workloads_may_have_some_of_the_methods_alone():
    more = {"models": ["mobile"], "datasets": ["digits"], "seeds": [0], "run": {}}
    more["methods"] = ["autofreeze 60%", "full"]
    runs = labelled_plan(small_spec(["full", "linear", "autofreeze 60%"], more=[more]), "demo")
    assert [(config.model, method) for config, method in runs.items()] == [
        *(("plain", method) for method in ("full", "linear", "autofreeze 60%")),
        *(("mobile", method) for method in ("full", "autofreeze 60%")),
    ]


def test_workloads_may_be_without_some_of_the_methods():
    methods = ["full", "linear 58%", "linear slow 58%", "autofreeze 58%"]
    runs = labelled_plan(small_spec(methods, without=["linear* 58%"]), "demo")
    assert list(runs.values()) == ["full", "autofreeze 58%"]


def test_a_rehearsal_has_few_examples_and_one_epoch_and_so_has_its_pretraining() -> None:
    spec = replace(load_spec("table2"), is_rehearsal=True)
    runs = plan(spec, "paper")
    sizes = {(c.epochs, c.batch_size, c.train_images, c.test_images) for c in runs}
    assert sizes == {(1.0, 16, 500, 100)}
    assert {config.image_size for config in runs} == {224}
    assert len(runs) == len(plan(load_spec("table2"), "paper"))
    for config in plan(spec, "small"):
        if config.pretraining is not None and config.pretraining.epochs:
            assert (config.pretraining.epochs, config.pretraining.train_images) == (1.0, 500)


def test_some_methods_may_have_the_first_seed_alone():
    repeated = [method for method in METHODS if method != "linear"]
    runs = labelled_plan(replace(small_spec(METHODS, seeds=[3, 4]), every_seed=repeated), "demo")
    assert [(config.seed, method) for config, method in runs.items()] == [
        *((3, method) for method in METHODS),
        *((4, method) for method in METHODS if method != "linear"),
    ]
    with pytest.raises(ValueError, match=r"every_seed.linear is not used here"):
        plan(replace(small_spec(["full"]), every_seed=["linear"]), "demo")


def test_every_workload_of_the_compute_table_has_the_rows_that_make_sense_there():
    rows: dict[tuple[str, str], set[str]] = {}
    for config, method in labelled_plan(load_spec("compute"), "small").items():
        rows.setdefault((config.model, config.dataset), set()).add(method)
    published = {("efficientnet_lite0", "cifar10"), ("efficientnet_lite0", "cifar100")}
    published |= {("minilm", "mrpc"), ("minilm", "cola")}
    strongest = ("smartfrz", "plan", "shorter", "prefix_then_body")
    extra = {f"{name} {compute}%" for name in strongest for compute in (90, 45)}
    extra |= {"prefix_then_body spread 45%"}
    for workload in published:
        assert rows[workload] >= {*extra, "full", "full same rate"}
    common = rows["minilm", "cola"] - extra - {"full same rate"}
    beyond_reach = {"linear 58%", "linear annealed 58%"}
    others = {workload: of for workload, of in rows.items() if workload not in published}
    assert others == {
        **{(name, "cifar10"): common for name in ("deit_tiny", "vgg11", "mobilenet_v2")},
        ("resnet50", "cifar10"): common - beyond_reach,
    }


@pytest.mark.parametrize("scale", SCALES)
def test_table_2_has_every_cell_of_the_paper(scale):
    runs = plan(load_spec("table2"), scale)
    seeds = {config.seed for config in runs}
    assert len(seeds) >= 3
    cells = {(config.model, config.dataset, config.method) for config in runs}
    assert len(runs) == len(cells) * len(seeds)
    assert {method for *_, method in cells} == {"full", "linear", "autofreeze", "smartfrz"}
    if scale != "demo":
        models = {"resnet50", "vgg11", "mobilenet_v2", "deit_tiny"}
        models |= set() if scale == "paper" else {"efficientnet_lite0", "efficientnet_lite1"}
        assert {cell[:2] for cell in cells} == {
            (model, dataset) for model in models for dataset in ("cifar10", "cifar100")
        }


def test_the_methods_of_a_workload_and_seed_come_together_in_the_spec_s_order():
    runs = plan(small_spec(METHODS, models=["plain", "residual"], seeds=[0, 1]), "demo")
    groups = [runs[i : i + 3] for i in range(0, len(runs), 3)]
    assert [[config.method for config in group] for group in groups] == [METHODS] * 4
    for group in groups:
        assert len({(config.model, config.dataset, config.seed) for config in group}) == 1
    assert len({(group[0].model, group[0].seed) for group in groups}) == 4


@pytest.mark.parametrize(("table", "scale"), PLANS)
def test_linear_freezing_comes_after_what_it_is_matched_with(table, scale):
    before = set()
    for config, method in planned(table, scale).items():
        workload = config.full_training
        options = config.options
        if isinstance(options, LinearOptions) and options.match and options.compute is None:
            assert (workload, options.match) in before
        before.add((workload, method))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("table", "models", "methods"),
    [
        ("table1", 2, {"full"}),
        ("table4", 2, {"full"}),
        ("table5", 2, {"full"}),
        ("policies", None, {"full", "smartfrz"}),
    ],
)
def test_tables_share_runs_with_table_2(table, models, methods, scale):
    """Tables of all its networks leave out those of its further workloads."""
    runs = planned(table, scale)
    models_of_all = load_spec("table2").scales[scale]["models"]
    table_2 = [run for run in planned("table2", scale) if run.model in models_of_all]
    assert {method for config, method in runs.items() if config in table_2} >= methods
    assert {config.id for config, method in runs.items() if method in methods} <= {
        config.id for config in table_2
    }
    found, all_models = ({config.model for config in each} for each in (runs, table_2))
    assert len(found) == min(models or len(all_models), len(all_models))


ONE = """
title = "One."
methods = ["full"]
scales.demo.models = ["plain", "residual"]
scales.demo.datasets = ["digits", "digits[0:5]"]
scales.demo.seeds = [0, 1]
scales.demo.run = { lr = 0.1, epochs = 2 }
scales.demo.model = { plain = { batch_size = 8 }, residual = { lr = 0.2, epochs = 3 } }
scales.demo.dataset."digits[0:5]" = { momentum = 0.5 }
scales.demo.more = [{ models = ["mobile"], datasets = ["digits"], seeds = [0], run = {} }]
"""
OTHER = """
title = "Another."
methods = ["full", "autofreeze"]
scales_of = "one"
scales.demo.models = ["residual"]
scales.demo.datasets = ["digits"]
scales.demo.model.residual.lr = 0.3
"""


def load_other(folder, monkeypatch, more=""):
    """Loads a spec that inherits another spec's scales."""
    (folder / "one.toml").write_text(ONE)
    (folder / "other.toml").write_text(OTHER + more)
    monkeypatch.setattr("experiments.spec.SPECS", folder)
    return load_spec("other")


def test_a_spec_with_another_s_scales_sets_only_what_differs(tmp_path, monkeypatch):
    """Entries for models and data sets that it leaves out are not inherited, nor more workloads."""
    runs = plan(load_other(tmp_path, monkeypatch), "demo")
    assert [(c.seed, c.method) for c in runs] == [
        (seed, method) for seed in (0, 1) for method in ("full", "autofreeze")
    ]
    kinds = {(c.model, c.dataset, c.lr, c.epochs, c.batch_size, c.momentum) for c in runs}
    assert kinds == {("residual", "digits", 0.3, 3, 32, 0.9)}


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("scales.demo.model.plain.lr = 0.1", "model.plain is not used here"),
        ("scales.demo.run = 3", "scales.demo.run = 3 is not of type dict"),
        ("scales.demo.seeds = 3", "scales.demo.seeds = 3 is not of type list"),
        ("scales.small = 3", "scales.small = 3 is not a table"),
        ("scales.small.seeds = [0]", "scales.small: .* missing"),
        ("scales.tiny = {}", "scales.tiny is not used here"),
    ],
)
def test_a_mistake_in_a_spec_with_another_s_scales_is_named(tmp_path, monkeypatch, mistake, says):
    with pytest.raises(ValueError, match=says):
        plan(load_other(tmp_path, monkeypatch, mistake), "demo")


def test_a_method_s_variants_have_options_of_their_own():
    names = ["full", "autofreeze", "autofreeze N=80"]
    runs = labelled_plan(small_spec(names, {"autofreeze N=80": {"percentile": 80.0}}), "demo")
    assert list(runs.values()) == names
    full, autofreeze, variant = runs
    assert full.method == "full" and autofreeze.method == variant.method == "autofreeze"
    assert autofreeze.options == AutoFreezeOptions() and variant.options == AutoFreezeOptions(
        percentile=80.0
    )
    (alone,) = plan(small_spec(["autofreeze"], {"autofreeze": {"percentile": 80.0}}), "demo")
    assert alone.id == variant.id


def test_a_data_set_s_values_win_over_the_scale_s_and_a_model_s_over_both():
    runs = plan(
        small_spec(
            models=["plain", "residual"],
            datasets=["digits", "digits[0:5]"],
            run={"lr": 0.1, "epochs": 1, "momentum": 0.5},
            dataset={"digits[0:5]": {"lr": 0.2, "epochs": 2}},
            model={"residual": {"lr": 0.3}},
        ),
        "demo",
    )
    found = {(c.model, c.dataset): (c.lr, c.epochs, c.momentum) for c in runs}
    assert found == {
        ("plain", "digits"): (0.1, 1, 0.5),
        ("plain", "digits[0:5]"): (0.2, 2, 0.5),
        ("residual", "digits"): (0.3, 1, 0.5),
        ("residual", "digits[0:5]"): (0.3, 2, 0.5),
    }


def test_pretraining_is_merged_key_by_key():
    first = {"dataset": "digits[0:5]", "epochs": 2, "lr": 0.1}
    spec = small_spec(
        run={"pretraining": first}, model={"plain": {"pretraining": {"epochs": 3, "batch_size": 8}}}
    )
    (config,) = plan(spec, "demo")
    assert config.pretraining == Pretraining("digits[0:5]", epochs=3, batch_size=8, lr=0.1)


@pytest.mark.parametrize("published", [True, False])
def test_the_fallback_is_taken_where_no_weights_are_published(monkeypatch, published):
    monkeypatch.setattr(planning, "has_published_weights", lambda model: published)
    spec = small_spec(
        datasets=["digits", "digits[0:5]"],
        run={"pretraining": {"dataset": "imagenet"}},
        fallback={"digits": {"dataset": "digits[5:10]", "epochs": 2}},
    )
    with_fallback, without = plan(spec, "demo")
    ours = Pretraining("digits[5:10]", epochs=2)
    assert with_fallback.pretraining == (Pretraining("imagenet") if published else ours)
    assert without.pretraining == Pretraining("imagenet")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (small_spec(models=["vgg12"]), ["vgg12", "vgg11"]),
        (small_spec(datasets=["cifar11"]), ["cifar11", "cifar100"]),
        (small_spec(datasets=["digits[5:11]"]), ["digits[5:11]", "10"]),
        (small_spec(run={"pretraining": {"dataset": "svhn", "epochs": 1}}), ["svhn", "cifar10"]),
        (small_spec(run={"epoch": 1}), ["epoch"]),
        (small_spec(["smartfreeze"]), ["smartfreeze", "smartfrz"]),
        (small_spec(["smartfrz"], {"smartfrz": {"predictor": "none"}}), ["none", "drift"]),
        (small_spec(["full"], {"smartfzr": {}}), ["options.smartfzr", "full"]),
        (small_spec(["smartfreeze raw"]), ["smartfreeze", "smartfrz"]),
        (small_spec(["autofreeze", "autofreeze M=4"]), ["twice", "'autofreeze M=4'"]),
        (small_spec(seeds=[0, 0]), ["twice", "seed 0"]),
        (small_spec(["linear"], {"linear": 0.5}), ["options.linear", "0.5"]),
        (small_spec(model={"plane": {"lr": 1.0}}), ["model.plane", "plain"]),
        (small_spec(model={"plain": 0.1}), ["model.plain", "0.1"]),
        (small_spec(dataset={"cifar10": {}}), ["dataset.cifar10", "digits"]),
        (small_spec(fallback={"cifar10": {}}), ["fallback.cifar10", "digits"]),
        (small_spec(seeds=3), ["seeds", "list"]),
        (small_spec(seed=[3]), ["seed", "seeds"]),
    ],
)
def test_a_mistake_in_a_spec_is_an_error_that_names_it(spec, names):
    with pytest.raises(ValueError) as error:
        plan(spec, "demo")
    for name in names:
        assert name in str(error.value)


def test_an_unknown_scale_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"'large'.*demo"):
        plan(small_spec(), "large")


def test_an_unknown_table_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"'table99'.*table2"):
        load_spec("table99")


@pytest.mark.parametrize(
    ("text", "says"),
    [("title = ", "not valid TOML"), ("titel = 'A'", "titel"), ("title = 'A'", "methods")],
)
def test_a_broken_spec_is_named(tmp_path, monkeypatch, text, says):
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setattr("experiments.spec.SPECS", tmp_path)
    with pytest.raises(ValueError, match=says) as error:
        load_spec("mine")
    assert "mine.toml" in str(error.value)


def test_a_scale_has_options_of_its_own_which_other_tables_do_not_inherit():
    methods = ["full", "smartfrz"]
    spec = small_spec(methods, {"smartfrz": {"records_per_epoch": 4}})
    own = {"smartfrz": {"records_per_epoch": 1, "threshold": 0.3}}
    spec.scales["medium"] = {**spec.scales["demo"], "options": own}
    of_scale = {scale: plan(spec, scale)[1].options for scale in ("demo", "medium")}
    assert of_scale["demo"].records_per_epoch == 4
    assert of_scale["medium"].records_per_epoch == 1
    assert of_scale["medium"].threshold == 0.3
    table2, table4 = load_spec("table2").scales["small"], load_spec("table4").scales["small"]
    assert "smartfrz" in table2["options"]
    assert "smartfrz" not in table4["options"]


def test_options_of_a_scale_for_no_method_of_the_table_are_refused():
    spec = small_spec()
    spec.scales["demo"]["options"] = {"linear": {"t0": 0.3}}
    with pytest.raises(ValueError, match=r"scales\.demo\.options\.linear is not used here"):
        plan(spec, "demo")
