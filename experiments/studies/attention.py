"""What the predictor attends to: is it less to records to which the loss rose (Fig. 2a)?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.config import RunConfig
from experiments.methods import RecordOptions
from experiments.studies.measurement import counted
from experiments.studies.stabilisation import epochs_per_record
from smartfrz.predictor import AttentionPredictor, History

_DRAWS = 10_000
# A training has to fill the window so many times more than once.
_WINDOWS = 10


@dataclass(frozen=True)
class Look:
    """What a predictor attended to in one training.

    Attributes:
        config: the training.
        attention: (windows, L, W), see `attention_by_age`.
        loss: a row per record: ``epoch``, and ``loss`` over the time from one record to the next.
        frame: see `loss_and_attention`; and the ``epoch`` of the record, a whole number.
    """

    config: RunConfig
    attention: Tensor
    loss: pd.DataFrame
    frame: pd.DataFrame


def look(
    predictor: AttentionPredictor, config: RunConfig, history: History, records_per_epoch: int
) -> Look:
    """Asks a predictor about a recorded training, at the pace at which SmartFRZ would.

    Args:
        predictor: the predictor.
        config: the training.
        history: what was recorded of it.
        records_per_epoch: SmartFRZ's; more are taken, up to all, where the training would else fill
            the window hardly once.

    Raises:
        ValueError: the training is shorter than the window.
    """
    assert isinstance(config.options, RecordOptions)
    records = len(history.loss)
    slowest = max(1, records // (predictor.window + _WINDOWS))
    stride = min(slowest, max(1, config.options.records_per_epoch // records_per_epoch))
    if records <= predictor.window:
        raise ValueError(
            f"{config.cell} has {records} records, too few for the predictor's window of "
            f"{predictor.window}."
        )
    weights = history.weights.transpose(0, 1)[..., :: history.weights.shape[-1] // predictor.size]
    loss = moving_mean(history.loss, stride)
    # Every start is another history at this pace.
    by_start = [attention_by_age(predictor, weights[:, start::stride]) for start in range(stride)]
    frames = [loss_and_attention(each, loss, start, stride) for start, each in enumerate(by_start)]
    frame, epochs = pd.concat(frames, ignore_index=True), epochs_per_record(config)
    frame["epoch"] = (frame["record"] * epochs).astype(int)
    losses = pd.DataFrame({"epoch": np.arange(records) * epochs, "loss": loss.numpy()})
    return Look(config, torch.cat(by_start), losses, frame)


def summary(looks: Sequence[Look]) -> dict[str, pd.DataFrame]:
    """What the figure and its caption are made of.

    Returns:
        ``ages``: for each age the ``mean`` attention, over trainings, and ``low`` and ``high``,
        between which 80% of the layers and windows are. ``runs``: for each training, whether a
        rise of the loss makes a difference. ``example``: the first training's loss, and the
        attention to each of its records, relative to what records of the same ages get.
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
    """The mean of each value and those before it, ``length`` in all or as many as there are."""
    ends = range(1, len(values) + 1)
    return torch.stack([values[max(0, end - length) : end].mean() for end in ends])


@torch.no_grad()
def attention_by_age(predictor: AttentionPredictor, weights: Tensor) -> Tensor:
    """The attention of every full window, by age of the record that it is paid to.

    Args:
        predictor: the predictor, of W records.
        weights: (L, R, size) of one training, oldest first, R > W.

    Returns:
        (R - W, L, W): of the windows that end at records W, W + 1, ..., the newest record's share
        first. Each row sums to 1. The very first record, which has not moved, is in none of them.
    """
    window = predictor.window
    records = predictor.encode(weights)[0][:, 1:]
    # (L, windows, features, W), turned round: the newest record first.
    keys = predictor.mlp_k(records).unfold(1, window, 1).flip(-1)
    queries = predictor.mlp_q(records[:, window - 1 :])
    return torch.einsum("lqf,lqfa->qla", queries, keys).softmax(dim=-1)


def loss_and_attention(
    attention: Tensor, loss: Tensor, start: int = 0, stride: int = 1
) -> pd.DataFrame:
    """One row per window and age: the attention, the mean over the layers, and the loss's change.

    Args:
        attention: from `attention_by_age`, of the records ``start``, ``start + stride``, ...
        loss: (R,) of all records.
        start: the first of them that the attention is of.
        stride: from one of them to the next.

    Returns:
        ``record`` (the one that is looked at), ``age``, ``attention`` and ``change``, how much the
        loss rose from the record before to this one.
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
    """How much more attention a record gets if the loss rose to it than if it fell.

    Records are compared with those that are alike; the mean over such groups, relative to the
    attention that they get, each group weighted by how much it tells (the harmonic mean of its
    two numbers of records).

    Args:
        frame: from `loss_and_attention`, of one training, maybe with further columns.
        alike: the columns that have to be the same.

    Returns:
        -0.1 means a tenth less; NaN if there is nothing to compare.
    """
    parts = (frame[frame["change"] < 0], frame[frame["change"] > 0])
    fell, rose = (each.groupby(list(alike))["attention"].agg(["mean", "count"]) for each in parts)
    weight = 1 / (1 / fell["count"] + 1 / rose["count"])
    difference, middle = rose["mean"] - fell["mean"], (rose["mean"] + fell["mean"]) / 2
    with np.errstate(invalid="ignore"):
        return float((weight * difference).sum() / (weight * middle).sum())


def rank_correlation_at_age(frame: pd.DataFrame) -> float:
    """Spearman's correlation of attention and change of the loss, ranked among the same age."""
    ranks = frame.groupby("age")[["attention", "change"]].rank(pct=True)
    return float(ranks["attention"].corr(ranks["change"]))


def bootstrap_interval(values: pd.Series) -> tuple[float, float]:
    """The middle 95% of the means of ten thousand resamples; NaN for less than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    means = rng.choice(values, (_DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def caption(ages: pd.DataFrame, runs: pd.DataFrame, example: str) -> str:
    """What the figure shows and what comes out of it.

    Args:
        ages: ``age`` and ``mean``.
        runs: a row per training: ``model``, ``rise_effect``, ``rise_effect_same_epoch`` and
            ``correlation``.
        example: the training whose loss is drawn.
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
        f"The predictor's attention over its window of {window} records, in "
        f"{counted(len(runs), 'training')} of {', '.join(runs['model'].unique())}. Left: by age "
        f"of the record; mean, and the middle 80% of the layers and moments; dashed, if all "
        f"records were alike. The newest record gets {ages['mean'].iloc[0]:.1%}, and the newest "
        f"{window // 3} get {ages['mean'].iloc[: window // 3].sum():.0%}. Middle: the training "
        f"loss of {example}, and the attention that each record gets, relative to what records of "
        f"the same ages get. Right: by how much more a record is attended to if the training loss "
        f"rose to it, than one of the same age (hollow: and of the same epoch) to which it fell; a "
        f"row is a training, line and band the mean of the first and its 95% bootstrap "
        f"interval.\n\n"
        f"**Finding.** The attention to a record to which the training loss rose differs by "
        f"{effect} from that to one of the same age to which it fell, and by {same_epoch} if only "
        f"records of the same epoch are compared, since the loss falls more often early on, when "
        f"attention may differ for other reasons: {_verdict(runs)}. The rank correlation of "
        f"attention and change of the loss at the same age is {correlation}. Intervals "
        f"are over trainings, 95%. The loss is the mean over the few batches between two records, "
        f"so that it rises with hard batches as well as with worse weights."
    )


def _with_interval(values: pd.Series, percent: bool) -> str:
    numbers = (values.mean(), *bootstrap_interval(values))
    mean, low, high = (f"{n:+.1%}" if percent else f"{n:+.3f}" for n in numbers)
    return f"{mean} ({low} to {high})" if len(values) > 1 else f"{mean} (one training)"


def _verdict(runs: pd.DataFrame) -> str:
    """Both comparisons have to agree: each has found a difference, the one the opposite of the
    other, in a predictor with random weights."""
    intervals = np.array(
        [bootstrap_interval(runs[name]) for name in ("rise_effect", "rise_effect_same_epoch")]
    )
    if (intervals < 0).all():
        return "it gets less, as the paper says"
    if (intervals > 0).all():
        return "it gets more, the opposite of what the paper says"
    return "no difference can be told"
