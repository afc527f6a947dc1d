"""From a table's TOML spec to its runs, in the order in which they are to be done."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

from safetensors.torch import save

from experiments.config import Pretraining, RunConfig, make_config
from experiments.data.registry import dataset
from experiments.methods import SmartFRZOptions
from experiments.models.pretraining import PUBLISHED, has_published_weights
from experiments.models.registry import network
from experiments.predictor.fitting import Training
from experiments.predictor.recipes import Recipe
from experiments.spec import PARTS, SCALES, Scale, Spec, check_parts, load_spec, merged
from experiments.validation import checked
from smartfrz.predictor import AttentionPredictor


def plan(spec: Spec, scale: str) -> list[RunConfig]:
    """The runs of a table, see `labelled_plan`."""
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
        network(name)
    check_parts(spec.options, spec.methods, "options")
    check_parts(spec.fields, spec.methods, "fields")
    check_parts(chosen.options, spec.methods, f"scales.{scale}.options")
    for part, names in PARTS.items():
        check_parts(getattr(chosen, part), getattr(chosen, names), part)
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
        dataset(config.dataset)
        if config.pretraining and config.pretraining.dataset not in PUBLISHED:
            dataset(config.pretraining.dataset)
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
    check_parts(spec.predictors, used, "predictors")
    learning = load_spec("predictor")
    values = dataclasses.asdict(training_at(scale, learning.predictor))
    recordings = tuple(plan(learning, scale))
    return {
        name: Recipe(checked(Training, values | changes, f"predictors.{name}"), recordings)
        for name, changes in spec.predictors.items()
    }


def _runs(spec: Spec, scale: Scale) -> Iterator[tuple[RunConfig, str]]:
    for name, variant, seed, model in product(
        scale.datasets, scale.variants, scale.seeds, scale.models
    ):
        part = scale.model.get(model, {})
        values = merged(scale.run, scale.dataset.get(name, {}), part, variant)
        values = {"dataset": name, "seed": seed, "model": model} | values
        for label in spec.methods:
            options = merged(spec.options.get(label, {}), scale.options.get(label, {})) or None
            method = {"method": label.partition(" ")[0], "options": options}
            config = make_config({**values, **spec.fields.get(label, {}), **method})
            yield _with_fallback(config, scale.fallback), label


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
    if not isinstance(options, SmartFRZOptions):
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
