"""Table specs, and the reader for ``experiments/specs/*.toml``."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import cache_folder
from experiments.validation import checked

SPECS = Path(__file__).parent / "specs"


SCALES = ("demo", "small", "medium", "paper")


PARTS = {"model": "models", "dataset": "datasets", "fallback": "datasets"}


@dataclass(frozen=True)
class Scale:
    """The workloads and hyperparameters of a table at one scale.

    Attributes:
        models, datasets, seeds: every combination is run with every method.
        run: fields of `RunConfig` for all runs.
        model, dataset: fields for the runs of one model or data set, by its name. A model's fields
            override a data set's.
        variants: tables of fields that override all others; every run is executed with each.
        options: by method, including the label, options that override the spec's.
        fallback: by data set, the pretraining to use if published weights are not available.
        methods: the spec's methods that these workloads are run with, with their labels; all if
            empty.
        without: patterns of methods that these workloads are run without, such as ``"* 45%"``.
        more: further workloads: tables of the values of a scale, which share none of the above.
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
    methods: list = field(default_factory=list)
    without: list = field(default_factory=list)
    more: list = field(default_factory=list)


@dataclass(frozen=True)
class Spec:
    """A table, or another group of runs.

    Attributes:
        title: the first sentence of the caption.
        methods: methods in order of execution. A method's name may be followed by a label that
            distinguishes variants: ``smartfrz raw``.
        scales: the values of a `Scale`, by the scale's name.
        options: by method, including the label, the values of its options.
        predictor: settings for training or evaluating predictors on the runs.
        predictors: predictors that are trained for this table, by name: the settings that differ
            from those of the bundled predictor in the spec ``predictor``.
        scales_of: another spec whose scales are inherited, except for their options and further
            workloads. Values in ``scales`` override them.
        fields: by method, including the label, fields of `RunConfig` for its runs.
        every_seed: those of the methods that are run with every seed; all if empty. The others are
            run with the first seed only.
        tuned_by: the spec whose runs have chosen settings for this table, see ``make tune``;
            inherited with the scales. Its settings take precedence over those of this spec. A
            method's options are those of rows without a label or with a compute: ``linear 60%``.
        tuned: these settings, by scale and model, which `load_spec` reads: ``run``, fields of
            `RunConfig`, and ``options`` by method. Not part of the spec's file.
        is_rehearsal: whether all runs are cut short, see `rehearsed`; not part of the file either.
    """

    title: str
    methods: list
    scales: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    predictor: dict = field(default_factory=dict)
    predictors: dict = field(default_factory=dict)
    scales_of: str = ""
    fields: dict = field(default_factory=dict)
    every_seed: list = field(default_factory=list)
    tuned_by: str = ""
    tuned: dict = field(default_factory=dict)
    is_rehearsal: bool = False


def load_spec(table: str) -> Spec:
    """Loads ``experiments/specs/<table>.toml``.

    Raises:
        UserError: there is no such spec, or it is not valid.
    """
    file = SPECS / f"{table}.toml"
    if not file.exists():
        known = sorted(path.stem for path in SPECS.glob("*.toml"))
        raise UserError(f"There is no table {table!r}: choose from {', '.join(known)}.")
    spec = checked(Spec, _read(file, tomllib.loads, "TOML"), file.name)
    if spec.scales_of:
        check_parts(spec.scales, SCALES, "scales")
        base = load_spec(spec.scales_of)
        names = dict.fromkeys([*base.scales, *spec.scales])
        scales = {n: _inherited(base.scales.get(n, {}), spec.scales.get(n, {}), n) for n in names}
        spec = replace(spec, scales=scales, tuned_by=spec.tuned_by or base.tuned_by)
    if spec.tuned_by:
        spec = replace(spec, tuned={scale: _tuned(spec.tuned_by, scale) for scale in spec.scales})
    return spec


def tuned_file(name: str, scale: str) -> Path:
    """The file of the settings that the runs of a spec have chosen at a scale.

    Those of the scale ``demo`` are not part of the repository.
    """
    folder = cache_folder("tuned") if scale == "demo" else SPECS / "tuned"
    return folder / f"{name}-{scale}.json"


def _tuned(name: str, scale: str) -> dict[str, Any]:
    file = tuned_file(name, scale)
    return _read(file, json.loads, "JSON") if file.exists() else {}


def _read(file: Path, parse: Callable[[str], Any], kind: str) -> dict[str, Any]:
    try:
        values = parse(file.read_text(encoding="utf-8"))
    except ValueError as error:  # invalid syntax, or not UTF-8
        raise UserError(f"{file.name} is not valid {kind}: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file.name} is no table of keys and values.")
    return values


def check_parts(parts: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Checks that each entry is a table, under one of the allowed names.

    Args:
        parts: the entries by name.
        names: the allowed names.
        where: the key of the entries, for the error message.

    Raises:
        UserError: an entry has another name, or is not a table.
    """
    for name, part in parts.items():
        if name not in names:
            advice = f"choose from {', '.join(map(str, names))}" if names else "remove it"
            raise UserError(f"{where}.{name} is not used here: {advice}.")
        if not isinstance(part, Mapping):
            raise UserError(f"{where}.{name} = {part!r} is not a table of keys and values.")


def _inherited(scale: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A scale of another spec with changes, without entries for models and data sets it drops."""
    scale = {key: value for key, value in scale.items() if key not in ("options", "more")}
    new = checked(Scale, {**scale, **changes}, f"scales.{name}")
    parts = {
        part: {key: v for key, v in scale.get(part, {}).items() if key in getattr(new, names)}
        for part, names in PARTS.items()
    }
    return merged({**scale, **parts}, changes)


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merges tables recursively; values of later tables override those of earlier ones."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
            whole[key] = merged(whole[key], value) if both else value
    return whole
