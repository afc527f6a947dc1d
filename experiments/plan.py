"""Expansion of a table's spec into its runs, in order of execution."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import product
from typing import Any

from safetensors.torch import save

from experiments.config import Pretraining, RunConfig
from experiments.data.registry import dataset
from experiments.errors import UserError
from experiments.methods import make_config
from experiments.models.pretraining import PUBLISHED, has_published_weights
from experiments.models.registry import network
from experiments.options import SmartFRZOptions
from experiments.predictor.cache import pretrained
from experiments.predictor.fitting import Training
from experiments.predictor.recipes import Recipe
from experiments.rehearsal import rehearsed
from experiments.spec import PARTS, SCALES, Scale, Spec, check_parts, load_spec, merged
from experiments.validation import checked


def plan(spec: Spec, scale: str) -> list[RunConfig]:
    """Returns the runs of a table, see `labelled_plan`."""
    return list(labelled_plan(spec, scale))


def labelled_plan(spec: Spec, scale: str) -> dict[RunConfig, str]:
    """Returns the runs of a table, grouped by workload and seed.

    Args:
        spec: the table.
        scale: a scale of it.

    Returns:
        Each run with its method as named in the spec, including the variant's label:
        ``smartfrz raw``. The run's config does not contain the label, which lets tables share runs.

    Raises:
        UserError: the table has no such scale, a model, data set, method or key is unknown, or
            two of its runs are equal.
    """
    check_parts(spec.options, spec.methods, "options")
    check_parts(spec.fields, spec.methods, "fields")
    check_parts({row: {} for row in spec.every_seed}, spec.methods, "every_seed")
    workloads = _workloads(spec, scale)
    tuned = spec.tuned.get(scale, {})
    for chosen in workloads:
        for name in chosen.models:
            network(name)
        check_parts({row: {} for row in chosen.methods}, spec.methods, f"scales.{scale}.methods")
        check_parts(chosen.options, spec.methods, f"scales.{scale}.options")
        for part, names in PARTS.items():
            check_parts(getattr(chosen, part), getattr(chosen, names), part)
    own = recipes(spec, scale)
    runs: dict[RunConfig, str] = {}
    for planned, label in _runs(spec, workloads, tuned):
        config = _with_fingerprint(planned, own)
        if config in runs:
            raise UserError(
                f"{config.cell} occurs twice, as {runs[config]!r} and as {label!r}: give them "
                "different options, or remove one."
            )
        runs[config] = label
        dataset(config.dataset)
        if config.pretraining and config.pretraining.dataset not in PUBLISHED:
            dataset(config.pretraining.dataset)
    return runs


def downloads(spec: Spec, scale: str) -> tuple[list[str], list[str]]:
    """Returns what a table's plan depends on and may have to be downloaded first.

    The plan itself depends on the spec and on the files that are there, see `labelled_plan`.

    Args:
        spec: the table.
        scale: a scale of it.

    Returns:
        The networks whose published weights are not in the cache; they are replaced by the scale's
        fallback, if it has one. And the predictors, by name, folder or Hub id.
    """
    planned = _runs(spec, _workloads(spec, scale), spec.tuned.get(scale, {}), with_fallback=False)
    configs = [config for config, _ in planned]
    networks = dict.fromkeys(
        config.model
        for config in configs
        if config.pretraining and config.pretraining.dataset in PUBLISHED
    )
    options = [each.options for each in configs if isinstance(each.options, SmartFRZOptions)]
    predictors = dict.fromkeys(each.predictor for each in options)
    return (
        [name for name in networks if not has_published_weights(name)],
        [name for name in predictors if name not in spec.predictors],
    )


def training_at(scale: str, values: Mapping[str, Any]) -> Training:
    """Returns the training settings of predictors at a scale.

    Args:
        scale: the scale.
        values: settings for all scales, and under a scale's name those that differ there.
    """
    common = {key: value for key, value in values.items() if key not in SCALES}
    return checked(Training, common | values.get(scale, {}), "predictor")


def recipes(spec: Spec, scale: str) -> dict[str, Recipe]:
    """Returns the recipes of the predictors that are trained for a table, by name.

    Raises:
        UserError: no method of the table uses one of them, or a key is unknown.
    """
    if not spec.predictors:
        return {}
    used = [options["predictor"] for options in spec.options.values() if "predictor" in options]
    check_parts(spec.predictors, used, "predictors")
    learning = load_spec("predictor")
    values = dataclasses.asdict(training_at(scale, learning.predictor))
    recordings = tuple(plan(learning, scale))
    return {
        name: Recipe(checked(Training, values | changes, f"predictors.{name}"), recordings)
        for name, changes in spec.predictors.items()
    }


def _workloads(spec: Spec, scale: str) -> list[Scale]:
    """Returns the workloads of a scale: its own values, and those of ``more``."""
    if scale not in spec.scales:
        raise UserError(f"There is no scale {scale!r} here: choose from {', '.join(spec.scales)}.")
    own = checked(Scale, spec.scales[scale], f"scales.{scale}")
    return [own, *(checked(Scale, values, f"scales.{scale}.more") for values in own.more)]


def _runs(
    spec: Spec,
    workloads: Sequence[Scale],
    tuned: Mapping[str, Any],
    with_fallback: bool = True,
) -> Iterator[tuple[RunConfig, str]]:
    for scale in workloads:
        for config, label in _runs_of(spec, scale, tuned):
            found = _with_fallback(config, scale.fallback) if with_fallback else config
            yield rehearsed(found) if spec.is_rehearsal else found, label


def _runs_of(spec: Spec, scale: Scale, tuned: Mapping[str, Any]) -> Iterator[tuple[RunConfig, str]]:
    rows = _rows(spec, scale)
    for name, changes, seed, model in product(
        scale.datasets, scale.variants, scale.seeds, scale.models
    ):
        part, chosen = scale.model.get(model, {}), tuned.get(model, {})
        parts = (scale.dataset.get(name, {}), part, chosen.get("run", {}), changes)
        values = merged(scale.run, *parts)
        values = {"dataset": name, "seed": seed, "model": model} | values
        repeated = spec.every_seed or rows
        for label in (row for row in rows if seed == scale.seeds[0] or row in repeated):
            method, _, variant = label.partition(" ")
            is_tuned = not variant or variant.endswith("%")
            options = merged(
                spec.options.get(label, {}),
                scale.options.get(label, {}),
                chosen.get("options", {}).get(method, {}) if is_tuned else {},
            )
            fields = {"method": method, "options": options or None}
            yield make_config({**values, **spec.fields.get(label, {}), **fields}), label


def _rows(spec: Spec, scale: Scale) -> list[str]:
    """The methods, with their labels, that workloads are run with.

    Raises:
        UserError: a pattern of ``without`` fits no method.
    """
    rows = [label for label in spec.methods if label in (scale.methods or spec.methods)]
    for pattern in scale.without:
        kept = [label for label in rows if not fnmatchcase(label, pattern)]
        if len(kept) == len(rows):
            raise UserError(f"without = {pattern!r} fits none of {', '.join(rows)}: remove it.")
        rows = kept
    return rows


def _with_fallback(config: RunConfig, fallback: Mapping[str, Any]) -> RunConfig:
    """The run, with its pretraining replaced if the published weights are not in the cache.

    The replacement is part of the config and gives the run another id.
    """
    source = config.pretraining
    if source is None or source.dataset not in PUBLISHED or config.dataset not in fallback:
        return config
    if has_published_weights(config.model):
        return config
    return replace(config, pretraining=checked(Pretraining, fallback[config.dataset], "fallback"))


def _with_fingerprint(config: RunConfig, own: Mapping[str, Recipe]) -> RunConfig:
    """The run with a hash of its predictor's weights, or of its recipe, in its options.

    It makes the run's id depend on the predictor and its threshold.
    """
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
    """Returns a hash of a predictor's weights, and its threshold; nothing is downloaded."""
    found = pretrained(predictor, local_files_only=True)
    return hashlib.sha256(save(found.state_dict())).hexdigest()[:12], found.threshold
