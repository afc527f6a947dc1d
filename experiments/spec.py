"""Table specs: reading experiments/specs/*.toml."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.validation import checked

SPECS = Path(__file__).parent / "specs"


SCALES = ("demo", "small", "medium", "paper")


PARTS = {"model": "models", "dataset": "datasets", "fallback": "datasets"}


@dataclass(frozen=True)
class Scale:
    """What a table is run on at one scale.

    Attributes:
        models, datasets, seeds: every combination is run with every method.
        run: fields of `RunConfig` for all runs.
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
        scales: the values of a `Scale` each.
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
        check_parts(spec.scales, SCALES, "scales")
        others = load_spec(spec.scales_of).scales
        names = dict.fromkeys([*others, *spec.scales])
        scales = {n: _inherited(others.get(n, {}), spec.scales.get(n, {}), n) for n in names}
        spec = replace(spec, scales=scales)
    return spec


def check_parts(parts: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Each part has to be a table of its own, under one of these names."""
    for name, part in parts.items():
        if name not in names:
            raise ValueError(f"{where}.{name} is for nothing here: there are {names}.")
        if not isinstance(part, Mapping):
            raise ValueError(f"{where}.{name} = {part!r} is not a table of keys and values.")


def _inherited(scale: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A scale of another spec with changes, without its parts for what is no longer in it."""
    scale = {key: value for key, value in scale.items() if key != "options"}
    new = checked(Scale, {**scale, **changes}, f"scales.{name}")
    parts = {
        part: {key: v for key, v in scale.get(part, {}).items() if key in getattr(new, names)}
        for part, names in PARTS.items()
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
