"""Attention of the predictor to records at which the loss has risen or fallen (Fig. 2a)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.options import RecordOptions
from experiments.studies.measurement import counted
from experiments.studies.stabilisation import epochs_per_record
from smartfrz.predictor import AttentionPredictor, History

_DRAWS = 10_000
# Minimum number of full windows at the chosen rate, if the run has as many.
_WINDOWS = 10


@dataclass(frozen=True)
class Look:
    """Attention of a predictor in one recorded run.

    Attributes:
        config: the run.
        attention: (windows, L, W), see `attention_by_age`.
        loss: a row per record: ``epoch``, and ``loss``, averaged since the previous record.
        frame: see `loss_and_attention`; and the ``epoch`` of the record, rounded down.
    """

    config: RunConfig
    attention: Tensor
    loss: pd.DataFrame
    frame: pd.DataFrame


def look(
    predictor: AttentionPredictor, config: RunConfig, history: History, records_per_epoch: int
) -> Look:
    """Computes a predictor's attention in a recorded run, at SmartFRZ's recording rate.

    Args:
        predictor: the predictor.
        config: the run.
        history: the recorded history of the run.
        records_per_epoch: SmartFRZ's recording rate. A higher rate, up to that of the recording, is
            used where a run would otherwise provide fewer than ten full windows.

    Raises:
        UserError: the run has no more records than the window.
    """
    assert isinstance(config.options, RecordOptions)
    records = len(history.loss)
    slowest = max(1, records // (predictor.window + _WINDOWS))
    stride = min(slowest, max(1, config.options.records_per_epoch // records_per_epoch))
    if records <= predictor.window:
        raise UserError(
            f"{config.cell} has {records} records, too few for the predictor's window of "
            f"{predictor.window}: record more per epoch, or use a predictor with a smaller window."
        )
    weights = history.weights.transpose(0, 1)[..., :: history.weights.shape[-1] // predictor.size]
    loss = moving_mean(history.loss, stride)
    # Each start offset gives a separate history at this rate.
    by_start = [attention_by_age(predictor, weights[:, start::stride]) for start in range(stride)]
    frames = [loss_and_attention(each, loss, start, stride) for start, each in enumerate(by_start)]
    frame, epochs = pd.concat(frames, ignore_index=True), epochs_per_record(config)
    frame["epoch"] = (frame["record"] * epochs).astype(int)
    losses = pd.DataFrame({"epoch": np.arange(records) * epochs, "loss": loss.numpy()})
    return Look(config, torch.cat(by_start), losses, frame)


def summary(looks: Sequence[Look]) -> dict[str, pd.DataFrame]:
    """Returns the data of the figure and its caption.

    Returns:
        ``ages``: for each age the ``mean`` attention over runs, and the bounds ``low`` and ``high``
        of the central 80% of layers and windows. ``runs``: for each run, the effects of a rise in
        the loss. ``example``: the first run's loss, and the attention to each of its records
        relative to the mean attention to records of the same ages.
    """
    every = torch.cat([each.attention.flatten(0, 1) for each in looks])
    means = torch.stack([each.attention.mean(dim=(0, 1)) for each in looks])
    low, high = np.quantile(every.numpy(), (0.1, 0.9), axis=0)
    ages = {"age": range(every.shape[1]), "mean": means.mean(dim=0), "low": low, "high": high}
    first = looks[0].frame
    expected = first.groupby("age")["attention"].transform("mean")
    paid = first.assign(expected=expected).groupby("record")[["attention", "expected"]].sum()
    return {
        "ages": pd.DataFrame(ages),
        "runs": pd.DataFrame([_of_run(each) for each in looks]),
        "example": looks[0].loss.assign(attention=paid["attention"] / paid["expected"]),
    }


def _of_run(look: Look) -> dict[str, object]:
    config = look.config
    return {
        **{"id": config.id, "model": config.model, "dataset": config.dataset},
        **{"seed": config.seed, "lr": config.lr, "pretrained": config.pretraining is not None},
        "rise_effect": rise_effect(look.frame, ["age"]),
        "rise_effect_same_epoch": rise_effect(look.frame, ["age", "epoch"]),
        "correlation": rank_correlation_at_age(look.frame),
        "newest": look.attention[..., 0].mean().item(),
    }


def moving_mean(values: Tensor, length: int) -> Tensor:
    """Returns the mean of each value and up to ``length`` - 1 values before it."""
    ends = range(1, len(values) + 1)
    return torch.stack([values[max(0, end - length) : end].mean() for end in ends])


@torch.no_grad()
def attention_by_age(predictor: AttentionPredictor, weights: Tensor) -> Tensor:
    """Returns the attention in every full window, by age of the attended record.

    Args:
        predictor: the predictor, with a window of W records.
        weights: (L, R, size) weights of one run, oldest first, R > W.

    Returns:
        (R - W, L, W): for the windows that end at records W, W + 1, ..., with the newest record
        first. Each row sums to 1. The first record of the run, at which nothing has moved, is not
        in any window.
    """
    window = predictor.window
    records = predictor.encode(weights)[0][:, 1:]
    # (L, windows, features, W), flipped to the newest record first.
    keys = predictor.mlp_k(records).unfold(1, window, 1).flip(-1)
    queries = predictor.mlp_q(records[:, window - 1 :])
    return torch.einsum("lqf,lqfa->qla", queries, keys).softmax(dim=-1)


def loss_and_attention(
    attention: Tensor, loss: Tensor, start: int = 0, stride: int = 1
) -> pd.DataFrame:
    """Returns a row per window and age with the attention and the change of the loss.

    Args:
        attention: from `attention_by_age`, for the records ``start``, ``start + stride``, ...
        loss: (R,) loss of all records.
        start: the first record that ``attention`` covers.
        stride: distance between two of its records.

    Returns:
        ``record``, the attended record; ``age``; ``attention``, mean over layers; and ``change``,
        the increase of the loss since the previous record.
    """
    windows, _, ages = attention.shape
    ends = torch.arange(ages, ages + windows)
    record = start + stride * (ends[:, None] - torch.arange(ages)).flatten()
    return pd.DataFrame(
        {
            "record": record.numpy(),
            "age": torch.arange(ages).repeat(windows).numpy(),
            "attention": attention.mean(dim=1).flatten().double().numpy(),
            "change": (loss[record] - loss[record - stride]).double().numpy(),
        }
    )


def rise_effect(frame: pd.DataFrame, alike: Sequence[str]) -> float:
    """Relative difference in attention between records at which the loss has risen and fallen.

    Records are compared within groups. The result is the mean difference over groups, relative to
    their mean attention; each group is weighted by the harmonic mean of its two numbers of records.

    Args:
        frame: from `loss_and_attention`, for one run; may have further columns.
        alike: the columns that define the groups.

    Returns:
        The relative difference: -0.1 means 10% less attention where the loss has risen. NaN if
        there is nothing to compare.
    """
    parts = (frame[frame["change"] < 0], frame[frame["change"] > 0])
    fell, rose = (each.groupby(list(alike))["attention"].agg(["mean", "count"]) for each in parts)
    weight = 1 / (1 / fell["count"] + 1 / rose["count"])
    difference, middle = rose["mean"] - fell["mean"], (rose["mean"] + fell["mean"]) / 2
    with np.errstate(invalid="ignore"):
        return float((weight * difference).sum() / (weight * middle).sum())


def rank_correlation_at_age(frame: pd.DataFrame) -> float:
    """Spearman correlation of attention and change of the loss, ranked within each age."""
    ranks = frame.groupby("age")[["attention", "change"]].rank(pct=True)
    return float(ranks["attention"].corr(ranks["change"]))


def bootstrap_interval(values: pd.Series) -> tuple[float, float]:
    """95% bootstrap interval of the mean, 10,000 resamples; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    means = rng.choice(values, (_DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def caption(ages: pd.DataFrame, runs: pd.DataFrame, example: str) -> str:
    """Returns the caption of the figure, with its finding.

    Args:
        ages: ``age`` and ``mean``.
        runs: a row per run: ``model``, ``rise_effect``, ``rise_effect_same_epoch`` and
            ``correlation``.
        example: network and data set of the run whose loss is drawn.
    """
    window = len(ages)
    effect, same_epoch, correlation = (
        _with_interval(runs[name], percent)
        for name, percent in (
            ("rise_effect", True),
            ("rise_effect_same_epoch", True),
            ("correlation", False),
        )
    )
    return (
        f"Attention of the predictor over its window of {window} records, in "
        f"{counted(len(runs), 'run')} of {', '.join(runs['model'].unique())}. Left: attention by "
        f"age of the record, mean and central 80% of layers and windows; dashed: uniform "
        f"attention. The newest record receives {ages['mean'].iloc[0]:.1%}, the newest "
        f"{window // 3} receive {ages['mean'].iloc[: window // 3].sum():.0%}. Middle: training "
        f"loss of {example}, and the attention to each record relative to records of the same "
        f"ages. Right: relative difference in attention between records at which the loss has "
        f"risen and records of the same age at which it has fallen, for each run (hollow: of the "
        f"same age and epoch); line and band: mean of the former and its 95% bootstrap interval."
        f"\n\n"
        f"**Finding.** Attention to records at which the training loss has risen differs by "
        f"{effect} from attention to records of the same age at which it has fallen, and by "
        f"{same_epoch} within the same epoch: {_verdict(runs)}. The second comparison accounts for "
        f"the loss falling more often early in a run, when attention may differ for other reasons. "
        f"The rank correlation of attention and change of the loss at the same age is "
        f"{correlation}. Intervals are 95% bootstrap intervals over runs. The loss is the mean "
        f"over the few batches between two records, and rises with hard batches as well as with "
        f"worse weights."
    )


def _with_interval(values: pd.Series, percent: bool) -> str:
    numbers = (values.mean(), *bootstrap_interval(values))
    mean, low, high = (f"{n:+.1%}" if percent else f"{n:+.3f}" for n in numbers)
    return f"{mean} ({low} to {high})" if len(values) > 1 else f"{mean} (one run)"


def _verdict(runs: pd.DataFrame) -> str:
    """Returns a conclusion, which requires that both comparisons agree.

    In a predictor with random weights, each of them found a difference, with opposite signs.
    """
    intervals = np.array(
        [bootstrap_interval(runs[name]) for name in ("rise_effect", "rise_effect_same_epoch")]
    )
    if (intervals < 0).all():
        return "attention is lower where the loss has risen, as the paper states"
    if (intervals > 0).all():
        return "attention is higher where the loss has risen, contrary to the paper"
    return "the comparison is inconclusive"
