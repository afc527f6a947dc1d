"""Stabilisation of layers, by their CKA to the final model of the same run (Fig. 4)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from experiments.config import RunConfig
from experiments.methods import interval
from experiments.options import RecordOptions
from experiments.studies.measurement import counted
from experiments.tables.compute import steps_per_epoch, traced
from smartfrz.predictor import History, stabilised


def cka_curves(config: RunConfig, history: History) -> pd.DataFrame:
    """Returns a row per record and layer: seed, epoch, position of the layer, CKA."""
    records, layers = history.cka.shape
    return pd.DataFrame(
        {
            "seed": config.seed,
            "epoch": np.repeat(np.arange(records) * epochs_per_record(config), layers),
            "layer": np.tile(np.arange(1, layers + 1), records),
            "cka": history.cka.flatten().numpy(),
        }
    )


def stable_epochs(config: RunConfig, history: History, tolerance: float) -> pd.DataFrame:
    """Returns a row per layer: seed, position, name, and first epoch with the label "stable".

    The epoch is NaN if the layer is never stable, or only at the last record, which is stable by
    definition.
    """
    first = first_stable(stabilised(history.cka, tolerance))
    return pd.DataFrame(
        {
            "seed": config.seed,
            "layer": range(1, len(first) + 1),
            "name": [layer.name for layer in traced(config).layers if not layer.is_head],
            "epoch": [record * epochs_per_record(config) for record in first],
        }
    )


def first_stable(stable: Tensor) -> list[float]:
    """Returns for each layer the first stable record, the last one excluded; NaN if there is none.

    Args:
        stable: (R, L) bool.
    """
    records = range(len(stable) - 1)
    return [next((r for r in records if layer[r]), math.nan) for layer in stable.T.tolist()]


def epochs_per_record(config: RunConfig) -> float:
    """Returns the number of epochs between two records of a recorded run."""
    assert isinstance(config.options, RecordOptions)
    steps = steps_per_epoch(config)
    return interval(steps, config.options.records_per_epoch) / steps


def front_first(layers: pd.DataFrame) -> pd.DataFrame:
    """Measures whether front layers stabilise first; layers that never do are ranked last.

    Args:
        layers: from `stable_epochs`, for one or more seeds.

    Returns:
        A row per seed: ``correlation``, Spearman's, of a layer's position and its stable epoch;
        ``chance``, the bound of its absolute value in 95% of cases without any order; and
        ``back_before_front``, the share of pairs of layers that stabilise at different epochs in
        which the later layer stabilises first.
    """
    rows = []
    for seed, of_seed in layers.groupby("seed"):
        of_seed = of_seed.sort_values("layer")
        epoch = of_seed["epoch"].fillna(math.inf)
        front, behind = np.triu_indices(len(epoch), k=1)
        moments = epoch.to_numpy()
        earlier, differ = moments[behind] < moments[front], moments[behind] != moments[front]
        rows.append(
            {
                "seed": seed,
                "correlation": of_seed["layer"].rank().corr(epoch.rank()),
                "chance": 1.96 / math.sqrt(len(epoch) - 1),
                "back_before_front": earlier.sum() / differ.sum() if differ.any() else math.nan,
            }
        )
    return pd.DataFrame(rows)


def caption(layers: pd.DataFrame, shown: Sequence[int], training: str, tolerance: float) -> str:
    """Returns the caption of Figure 4, with its finding.

    Args:
        layers: from `stable_epochs`.
        shown: numbers of the layers whose curves are drawn.
        training: network and data set of the runs.
        tolerance: tolerance of the label.
    """
    order = front_first(layers)
    count = layers["layer"].max()
    never = layers["epoch"].isna().groupby(layers["seed"]).sum()
    orders = "; ".join(
        f"seed {row.seed}: {row.correlation:+.2f}, the later layer first in "
        f"{row.back_before_front:.0%} of the pairs, {never[row.seed]} of {count} layers never "
        f"stable"
        for row in order.itertuples()
    )
    return (
        f"Left: CKA of layers {', '.join(map(str, shown))} of {count} (without the head) to the "
        f"final model of the same run, {training}, seed {order['seed'].iloc[0]}; markers: first "
        f"record at which a layer is labelled stable (its CKA stays within {tolerance:g} from then "
        f"on). Right: epoch of that record for every layer; hollow markers at the end of the run: "
        f"not stable before the last record.\n\n"
        f"**Finding.** {_verdict(order)}, by the rank correlation of a layer's position and that "
        f"epoch; by chance alone, it lies within ±{order['chance'].iloc[0]:.2f} in 95% of cases "
        f"({orders})."
    )


def _verdict(order: pd.DataFrame) -> str:
    front = (order["correlation"] > order["chance"]).sum()
    back = (order["correlation"] < -order["chance"]).sum()
    return (
        f"Front layers stabilise first in {front} and back layers in {back} of "
        f"{counted(len(order), 'run')}"
    )
