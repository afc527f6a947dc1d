"""When do layers stabilise? Their CKA to the model that their training ends with (Fig. 4)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from experiments.config import RunConfig
from experiments.methods import RecordOptions, interval
from experiments.studies.measurement import counted
from experiments.tables.compute import steps_per_epoch, traced
from smartfrz.predictor import History, stabilised


def cka_curves(config: RunConfig, history: History) -> pd.DataFrame:
    """One row per record and layer: seed, epoch, place of the layer, CKA."""
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
    """One row per layer: seed, place, name, and the epoch from which it is labelled stable.

    NaN if it never is, or only at the last record, which is stable whatever it holds.
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
    """For each layer the first of the records, but the last, that is labelled stable; or NaN.

    Args:
        stable: (R, L) bool.
    """
    records = range(len(stable) - 1)
    return [next((r for r in records if layer[r]), math.nan) for layer in stable.T.tolist()]


def epochs_per_record(config: RunConfig) -> float:
    """Epochs between two records of a recorded run."""
    assert isinstance(config.options, RecordOptions)
    steps = steps_per_epoch(config)
    return interval(steps, config.options.records_per_epoch) / steps


def front_first(layers: pd.DataFrame) -> pd.DataFrame:
    """Whether the layers in the front stabilise first; those that never do count as the last.

    Args:
        layers: from `stable_epochs`, of one or more seeds.

    Returns:
        A row per seed: ``correlation``, Spearman's, of a layer's place and its stable epoch;
        ``chance``, within which it stays in 95 of 100 cases if there is no order; and
        ``back_before_front``, the share of pairs of layers (of those that stabilise at different
        moments) of which the one behind stabilises first.
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
    """What Figure 4 shows and what comes out of it.

    Args:
        layers: from `stable_epochs`.
        shown: the numbers of the layers whose curves are drawn.
        training: what was trained.
        tolerance: of the label.
    """
    order = front_first(layers)
    count = layers["layer"].max()
    never = layers["epoch"].isna().groupby(layers["seed"]).sum()
    orders = "; ".join(
        f"seed {row.seed}: {row.correlation:+.2f}, and in {row.back_before_front:.0%} of the pairs "
        f"of layers the one behind is first, {never[row.seed]} of {count} layers never"
        for row in order.itertuples()
    )
    return (
        f"Left: CKA of layers {', '.join(map(str, shown))} of {count}, the head left out, to the "
        f"model that the same training ends with, {training}, seed {order['seed'].iloc[0]}; a "
        f"marker stands where the layer is first labelled stable (from then on its CKA stays "
        f"within {tolerance:g} of what it is). Right: that moment of every layer; hollow, at the "
        f"end, if it never comes before the last record.\n\n"
        f"**Finding.** {_verdict(order)}: rank correlation of a layer's place and that moment, "
        f"which chance alone keeps within ±{order['chance'].iloc[0]:.2f} in 95 of 100 cases "
        f"({orders})."
    )


def _verdict(order: pd.DataFrame) -> str:
    front = (order["correlation"] > order["chance"]).sum()
    back = (order["correlation"] < -order["chance"]).sum()
    return (
        f"The layers in the front stabilise first in {front}, those in the back in {back} of "
        f"{counted(len(order), 'training')}"
    )
