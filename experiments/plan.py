"""From a table's TOML spec to its runs, in the order in which they are to be done."""

import dataclasses
import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from safetensors.torch import save

from experiments.config import Pretraining, RunConfig, SmartFreezing, checked, make_config
from experiments.fitting import Training
from experiments.models import MODELS
from experiments.predictors import Recipe
from experiments.pretraining import PUBLISHED, has_published_weights
from experiments.workload import check_dataset
from smartfrz.predictor import AttentionPredictor

SPECS = Path(__file__).parent / "specs"
SCALES = ("demo", "small", "medium", "paper")
_PARTS = {"model": "models", "dataset": "datasets", "fallback": "datasets"}


@dataclass(frozen=True)
class Scale:
    """What a table is run on at one scale.

    Attributes:
        models, datasets, seeds: every combination is run with every method.
        run: fields of :class:`experiments.config.RunConfig` for all runs.
        model, dataset: fields for the runs of one model or data set; the model's win.
        variants: each a table of further fields, which win over all; every run is done with each.
        options: by method, label included, what is different from the spec's options.
        fallback: pretraining of a data set where published weights can't be had.
    """

    models: list
    datasets: list
    seeds: list
    run: dict
    model: dict = field(default_factory=dict)
    dataset: dict = field(default_factory=dict)
    variants: list = field(default_factory=lambda: [{}])
    options: dict = field(default_factory=dict)
    fallback: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A table, or other runs that belong together.

    Attributes:
        title: what the table shows, as a sentence.
        methods: in the order in which they run. After a method's name a label may follow that tells
            its variants apart: ``smartfrz raw``.
        scales: the values of a :class:`Scale` each.
        options: by method, label included, the values of its options.
        predictor: how a predictor is trained on the runs, where that is what they are for.
        predictors: made for this table, by name: what is different from how the spec ``predictor``
            trains the bundled one.
        scales_of: another spec, whose scales these are, but for their options and what is set in
            ``scales``.
        fields: by method, label included, fields of its runs.
    """

    title: str
    methods: list
    scales: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    predictor: dict = field(default_factory=dict)
    predictors: dict = field(default_factory=dict)
    scales_of: str = ""
    fields: dict = field(default_factory=dict)


def load_spec(table: str) -> Spec:
    """Reads ``experiments/specs/<table>.toml``.

    Raises:
        ValueError: there is no such table, or its spec is not valid.
    """
    file = SPECS / f"{table}.toml"
    if not file.exists():
        known = sorted(path.stem for path in SPECS.glob("*.toml"))
        raise ValueError(f"There is no table {table!r}: choose from {', '.join(known)}.")
    try:
        values = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file.name} is not valid TOML: {error}.") from error
    spec = checked(Spec, values, file.name)
    if spec.scales_of:
        _check_parts(spec.scales, SCALES, "scales")
        others = load_spec(spec.scales_of).scales
        names = dict.fromkeys([*others, *spec.scales])
        scales = {n: _inherited(others.get(n, {}), spec.scales.get(n, {}), n) for n in names}
        spec = replace(spec, scales=scales)
    return spec


def plan(spec: Spec, scale: str) -> list[RunConfig]:
    """The runs of a table, see :func:`labelled_plan`."""
    return list(labelled_plan(spec, scale))


def labelled_plan(spec: Spec, scale: str) -> dict[RunConfig, str]:
    """The runs of a table, all methods of a workload and seed one after the other.

    Returns:
        Each run with its method as the spec has it, label included: ``smartfrz raw``. The run
        itself does not know its label, so that tables can share it.

    Raises:
        ValueError: the table has no such scale, a model, data set, method or key is unknown, or
            two of its runs are the same.
    """
    if scale not in spec.scales:
        raise ValueError(f"There is no scale {scale!r} here: choose from {', '.join(spec.scales)}.")
    chosen = checked(Scale, spec.scales[scale], f"scales.{scale}")
    for name in chosen.models:
        if name not in MODELS:
            raise ValueError(f"There is no model {name!r}: choose from {', '.join(MODELS)}.")
    _check_parts(spec.options, spec.methods, "options")
    _check_parts(spec.fields, spec.methods, "fields")
    _check_parts(chosen.options, spec.methods, f"scales.{scale}.options")
    for part, names in _PARTS.items():
        _check_parts(getattr(chosen, part), getattr(chosen, names), part)
    own = recipes(spec, scale)
    runs: dict[RunConfig, str] = {}
    for planned, label in _runs(spec, chosen):
        config = _with_fingerprint(planned, own)
        if config in runs:
            raise ValueError(
                f"{config.cell} is there twice, as {runs[config]!r} and as {label!r}: give them "
                "different options, or leave one out."
            )
        runs[config] = label
        check_dataset(config.dataset)
        if config.pretraining and config.pretraining.dataset not in PUBLISHED:
            check_dataset(config.pretraining.dataset)
    return runs


def training_at(scale: str, values: Mapping[str, Any]) -> Training:
    """How predictors are trained at a scale: as at all scales, but for what is set for it."""
    common = {key: value for key, value in values.items() if key not in SCALES}
    return checked(Training, common | values.get(scale, {}), "predictor")


def recipes(spec: Spec, scale: str) -> dict[str, Recipe]:
    """The predictors that are made for a table, by name.

    Raises:
        ValueError: none of its methods uses one of them, or a key is unknown.
    """
    if not spec.predictors:
        return {}
    used = [options.get("predictor", "") for options in spec.options.values()]
    _check_parts(spec.predictors, used, "predictors")
    learning = load_spec("predictor")
    values = dataclasses.asdict(training_at(scale, learning.predictor))
    recordings = tuple(plan(learning, scale))
    return {
        name: Recipe(checked(Training, values | changes, f"predictors.{name}"), recordings)
        for name, changes in spec.predictors.items()
    }


def _check_parts(parts: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Each part has to be a table of its own, under one of these names."""
    for name, part in parts.items():
        if name not in names:
            raise ValueError(f"{where}.{name} is for nothing here: there are {names}.")
        if not isinstance(part, Mapping):
            raise ValueError(f"{where}.{name} = {part!r} is not a table of keys and values.")


def _runs(spec: Spec, scale: Scale) -> Iterator[tuple[RunConfig, str]]:
    for dataset, variant, seed, model in product(
        scale.datasets, scale.variants, scale.seeds, scale.models
    ):
        part = scale.model.get(model, {})
        values = merged(scale.run, scale.dataset.get(dataset, {}), part, variant)
        values = {"dataset": dataset, "seed": seed, "model": model} | values
        for label in spec.methods:
            options = merged(spec.options.get(label, {}), scale.options.get(label, {})) or None
            method = {"method": label.partition(" ")[0], "options": options}
            config = make_config({**values, **spec.fields.get(label, {}), **method})
            yield _with_fallback(config, scale.fallback), label


def _inherited(scale: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A scale of another spec with changes, without its parts for what is no longer in it."""
    scale = {key: value for key, value in scale.items() if key != "options"}
    new = checked(Scale, {**scale, **changes}, f"scales.{name}")
    parts = {
        part: {key: v for key, v in scale.get(part, {}).items() if key in getattr(new, names)}
        for part, names in _PARTS.items()
    }
    return merged({**scale, **parts}, changes)


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """One table of several, in which later values win, also in the tables within."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
            whole[key] = merged(whole[key], value) if both else value
    return whole


def _with_fallback(config: RunConfig, fallback: Mapping[str, Any]) -> RunConfig:
    """Pretraining of our own, with its own run id, where the published weights can't be had."""
    source = config.pretraining
    if source is None or source.dataset not in PUBLISHED or config.dataset not in fallback:
        return config
    if has_published_weights(config.model):
        return config
    return replace(config, pretraining=checked(Pretraining, fallback[config.dataset], "fallback"))


def _with_fingerprint(config: RunConfig, own: Mapping[str, Recipe]) -> RunConfig:
    """A run's id depends on the predictor's weights and threshold, or all that they come from."""
    options = config.options
    if not isinstance(options, SmartFreezing):
        return config
    if options.predictor in own:
        found = replace(options, fingerprint=own[options.predictor].id)
    else:
        weights, default = fingerprint(options.predictor)
        threshold = default if options.threshold is None else options.threshold
        found = replace(options, fingerprint=weights, threshold=threshold)
    return replace(config, options=found)


@lru_cache
def fingerprint(predictor: str) -> tuple[str, float]:
    """A hash of a predictor's weights, and its threshold."""
    found = AttentionPredictor.from_pretrained(predictor)
    return hashlib.sha256(save(found.state_dict())).hexdigest()[:12], found.threshold
