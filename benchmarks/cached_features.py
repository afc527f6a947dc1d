"""Time of whole runs with cached features: ``python -m benchmarks.cached_features``.

Full training and two methods at equal compute, with and without a cache of the frozen prefix's
features for each sentence, run side by side, alternating single steps, as at SCALE=small.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from benchmarks.report import parser, present
from benchmarks.whole_runs import in_turns
from experiments.config import RunConfig
from experiments.plan import labelled_plan
from experiments.spec import load_spec

MODELS = ("minilm",)
METHODS = ("smartfrz 58%", "prefix_then_body 58%")
"""Methods of the table at equal compute."""

COLUMNS = {
    "model": "Model",
    "dataset": "Data",
    "method": "Method",
    "features": "Prefix features",
    "time": "Time / full",
    "compute": "Compute / full",
    "time_over_compute": "Time saved / compute saved",
    "freezes": "Freezes",
    "score": "Score (%)",
    "full_score": "Score of full (%)",
}


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("cached_features", __doc__, MODELS).parse_args()
    present(
        "cached_features",
        options,
        lambda: pd.concat([side_by_side(model, options.results) for model in options.models]),
        COLUMNS,
        "Fine-tuning from published weights with the frozen prefix's features computed in each "
        "step, or cached, relative to full training, seed 0: time of all steps, decisions "
        "included. The second method freezes a front at step 0, SmartFRZ layer by layer. "
        "Compute does not include the forward passes saved by cached features, and dropout is off "
        "in what is cached.",
    )


def computed_runs(model: str) -> dict[str, RunConfig]:
    """Returns the runs of the table at equal compute on MRPC with seed 0, by method."""
    planned = labelled_plan(load_spec("compute"), "small")
    found = {
        label: config
        for config, label in planned.items()
        if (config.model, config.dataset, config.seed) == (model, "mrpc", 0)
    }
    return {method: found[method] for method in METHODS}


def side_by_side(model: str, results: Path) -> pd.DataFrame:
    """Executes the runs in turns; returns two rows for each method."""
    computed = computed_runs(model)
    configs, names = [next(iter(computed.values())).full_training], []
    for method, config in computed.items():
        for features, is_cached in (("computed", False), ("cached", True)):
            configs.append(replace(config, feature_cache=is_cached))
            names.append({"method": method, "features": features})
    return pd.concat([pd.DataFrame(names), in_turns(configs, results)], axis=1)


if __name__ == "__main__":
    main()
