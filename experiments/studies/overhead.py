"""Overhead of SmartFRZ in memory, FLOPs and time (Appendix C)."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from experiments.config import RunConfig
from experiments.methods import interval
from experiments.options import SmartFRZOptions
from experiments.runs.setup import prepare
from experiments.runs.training_loop import Curves, train_step
from experiments.studies.measurement import counted
from smartfrz.cost import forward_macs
from smartfrz.graph import trace
from smartfrz.layers import Layer
from smartfrz.predictor import AttentionPredictor, IncrementalPredictor

LAYER_COUNTS = (10, 50, 100, 300, 1000)
_WEIGHTS_PER_LAYER = 4096
# Repeats per median: untimed ones, then a minimum and a maximum, until enough time has passed.
_WARM_UP, _FEWEST, _MOST, _ENOUGH_MS = 3, 7, 100, 2000


def decision_flops(predictor: AttentionPredictor, records_per_decision: int) -> dict[str, int]:
    """Computes the FLOPs (2 x MACs) of one decision about one layer, with a full window.

    Returns:
        ``as_written``: Eq. 1 for all records of the window, queries included; ``from_scratch``:
        with the newest query alone, the only one that Eq. 2 uses; ``kept``: with cached keys and
        values, only for the records since the previous decision; ``record`` and ``decide``: the
        two parts of ``kept``.
    """
    device = next(predictor.parameters()).device
    record = torch.zeros(1, predictor.size, device=device)
    query, key, value = (
        2 * forward_macs(trace(mlp, record))
        for mlp in (predictor.mlp_q, predictor.mlp_k, predictor.mlp_v)
    )
    classify = 2 * forward_macs(trace(predictor.mlp_z, record.new_zeros(1, predictor.features)))
    attend = 2 * 2 * predictor.window * predictor.features  # Eqs. 2 and 3
    decide = query + attend + classify
    return {
        "as_written": predictor.window * (query + key + value) + attend + classify,
        "from_scratch": predictor.window * (key + value) + decide,
        "kept": records_per_decision * (key + value) + decide,
        "record": key + value,
        "decide": decide,
    }


def tensor_bytes(kept: Any) -> int:
    """Returns the bytes of all tensors in an object, in any nesting, without those of modules."""
    if isinstance(kept, Tensor):
        return kept.nbytes
    if isinstance(kept, dict):
        return sum(map(tensor_bytes, kept.values()))
    if isinstance(kept, list | tuple):
        return sum(map(tensor_bytes, kept))
    if hasattr(kept, "__dict__") and not isinstance(kept, nn.Module):
        return tensor_bytes(vars(kept))
    return 0


def time_by_layers(
    predictor: AttentionPredictor, counts: Iterable[int], device: torch.device
) -> pd.DataFrame:
    """Measures times in milliseconds against the number of layers, of 4,096 weights each.

    Returns:
        A row for each number of ``layers``, with medians: ``record_ms``, one record of all layers;
        ``decide_ms``, one decision about all layers; ``from_scratch_ms``, a decision from the whole
        windows of raw weights, as in the paper.
    """
    return pd.DataFrame([{"layers": count, **_times(predictor, count, device)} for count in counts])


def _times(predictor: AttentionPredictor, count: int, device: torch.device) -> dict[str, float]:
    layers = [_random_layer(str(number), device) for number in range(count)]
    weights = [param.data for layer in layers for param in layer.params]
    records = IncrementalPredictor(predictor)
    factors = cycle([1.01, 0.99])

    def move() -> None:
        # Constant weights would be sorted faster than those of a network that trains.
        torch._foreach_mul_(weights, next(factors))

    return {
        "record_ms": _median_ms(partial(records.record, layers), device, move),
        "decide_ms": _median_ms(records.freeze_probability, device),
        "from_scratch_ms": _median_ms(_from_scratch(predictor, count, device), device),
    }


def training_times(
    config: RunConfig, predictor: AttentionPredictor, repeats: int = 15
) -> dict[str, Any]:
    """Measures the time of an optimizer step of a run, and of SmartFRZ's work on its model.

    Nothing is frozen, which makes the overhead an upper bound. Steps, records and decisions are
    timed in turns, which exposes them equally to other load on the machine.

    Args:
        config: the run; its weights are random, which does not affect the times.
        predictor: the predictor.
        repeats: number of timed repeats of each, after three untimed ones.

    Returns:
        Medians in milliseconds ``step_ms``, ``record_ms``, ``decide_ms`` and ``from_scratch_ms``;
        the number of ``layers`` without the head; and ``kept_bytes``, the size of the state kept
        for decisions.
    """
    run = prepare(replace(config.full_training, pretraining=None))
    run.model.train()
    layers = [layer for layer in run.freezer.layers if not layer.is_head]
    records = IncrementalPredictor(predictor)
    from_scratch = _from_scratch(predictor, len(layers), run.device)
    batches = cycle(islice(run.batches.epoch(config.seed, 0), 4))
    turns = []
    for batch in islice(batches, _WARM_UP + repeats):
        actions: dict[str, Callable[[], object]] = {
            "step_ms": partial(train_step, run, Curves(), batch),
            "record_ms": partial(records.record, layers),
            "decide_ms": records.freeze_probability,
            "from_scratch_ms": from_scratch,
        }
        turns.append({name: _milliseconds(each, run.device) for name, each in actions.items()})
    medians = pd.DataFrame(turns[_WARM_UP:]).median().to_dict()
    return {**medians, "layers": len(layers), "kept_bytes": tensor_bytes(records)}


def share_of_training(
    times: dict[str, Any], options: SmartFRZOptions, steps_per_epoch: int, decide: str = "decide_ms"
) -> float:
    """Returns the relative increase of the time per epoch due to records and decisions.

    Args:
        times: from `training_times`.
        options: how often SmartFRZ records and decides.
        steps_per_epoch: number of optimizer steps in an epoch.
        decide: key of the time of a decision.
    """
    steps = interval(steps_per_epoch, options.records_per_epoch)
    per_record = times["record_ms"] + times[decide] / options.records_per_decision
    return per_record / (steps * times["step_ms"])


def quantities(
    predictor: AttentionPredictor,
    times: dict[str, Any],
    options: SmartFRZOptions,
    steps_per_epoch: int,
    steps_per_whole_epoch: int,
) -> pd.DataFrame:
    """Returns the quantities of Appendix C and further ones.

    Args:
        predictor: the predictor.
        times: from `training_times`.
        options: how often SmartFRZ records and decides.
        steps_per_epoch: number of optimizer steps in an epoch of the run.
        steps_per_whole_epoch: number of optimizer steps in an epoch on all training images.

    Returns:
        A row for each, with ``quantity``, ``unit``, ``paper`` and ``here``.
    """
    layers, window = times["layers"], predictor.window
    flops = decision_flops(predictor, options.records_per_decision)
    once = 4 * layers * predictor.size
    shares = [
        100 * share_of_training(times, options, *case)
        for case in (
            (steps_per_epoch,),
            (steps_per_epoch, "from_scratch_ms"),
            (steps_per_whole_epoch,),
        )
    ]
    per_decision = f"{counted(options.records_per_decision, 'record')} and a decision"
    rows = [
        ("Predictor: parameters", "M", None, _parameters(predictor) / 1e6),
        ("Predictor: size", "MB", 4, 4 * _parameters(predictor) / 1e6),
        (f"Sampled weights of {layers} layers, once", "KB", 200, once / 1e3),
        (f"Sampled weights, {window} records", "MB", 6, window * once / 1e6),
        ("State kept for decisions", "MB", None, times["kept_bytes"] / 1e6),
        (f"A layer: Eq. 1 for {window} records", "GFLOPs", 0.12, flops["as_written"] / 1e9),
        ("A layer: the same, newest query only", "GFLOPs", None, flops["from_scratch"] / 1e9),
        (f"A layer: {per_decision}, with cache", "GFLOPs", None, flops["kept"] / 1e9),
        (f"All {layers} layers: a record", "ms", None, times["record_ms"]),
        (f"All {layers} layers: a decision", "ms", None, times["decide_ms"]),
        (f"All {layers} layers: a decision from scratch", "ms", None, times["from_scratch_ms"]),
        ("An optimizer step", "ms", None, times["step_ms"]),
        (f"Share of training time, {steps_per_epoch:,} steps per epoch", "%", None, shares[0]),
        ("The same, decided from scratch", "%", None, shares[1]),
    ]
    if steps_per_whole_epoch != steps_per_epoch:
        rows.append((f"Share, {steps_per_whole_epoch:,} steps per epoch", "%", None, shares[2]))
    return pd.DataFrame(rows, columns=["quantity", "unit", "paper", "here"])


def table(quantities: pd.DataFrame) -> str:
    """Returns the quantities as a Markdown table."""
    lines = ["| Quantity | Unit | Paper (approx.) | Ours |", "| :-- | :-- | --: | --: |"]
    for row in quantities.itertuples():
        paper = "\N{EN DASH}" if math.isnan(row.paper) else f"{row.paper:g}"
        lines.append(f"| {row.quantity} | {row.unit} | {paper} | {row.here:.3g} |")
    return "\n".join(lines)


def caption(by_layers: pd.DataFrame, training: str, config: RunConfig) -> str:
    """Returns the caption of the table and the figure, with the growth of time with layers.

    Args:
        by_layers: from `time_by_layers`.
        training: network and data set of the run.
        config: the run, with SmartFRZ.
    """
    options = config.options
    assert isinstance(options, SmartFRZOptions)
    few, many = by_layers.iloc[len(by_layers) // 2], by_layers.iloc[-1]
    record, decide, from_scratch = (
        many[name] / few[name] for name in ("record_ms", "decide_ms", "from_scratch_ms")
    )
    an_epoch = counted(options.records_per_epoch, "record")
    a_decision = counted(options.records_per_decision, "record")
    return (
        f"Overhead of SmartFRZ (the paper's Appendix C): {training}, {config.image_size} pixels, "
        f"batches of {config.batch_size}, {an_epoch} per epoch, {a_decision} per decision. FLOPs "
        f"are 2 x MACs. Times are medians; optimizer steps, records and decisions are timed in "
        f"turns, with nothing frozen, which makes the share an upper bound. Figure: layers of "
        f"{_WEIGHTS_PER_LAYER:,} weights, of which 1,024 are sampled. From "
        f"{few['layers']:.0f} to {many['layers']:,.0f} layers, an increase by a factor of "
        f"{many['layers'] / few['layers']:.3g}, the time of a record grows by a factor of "
        f"{record:.3g}, of a decision {decide:.3g}, and of a decision from scratch "
        f"{from_scratch:.3g}."
    )


def _parameters(predictor: AttentionPredictor) -> int:
    return sum(param.numel() for param in predictor.parameters())


def _from_scratch(
    predictor: AttentionPredictor, layers: int, device: torch.device
) -> Callable[[], Tensor]:
    """Returns a function that decides as in the paper, from whole windows of raw weights."""
    paper = AttentionPredictor(predictor.size, window=predictor.window, encoding="raw").to(device)
    history = torch.randn(layers, predictor.window, predictor.size, device=device)
    return torch.no_grad()(partial(paper, history))


def _random_layer(name: str, device: torch.device) -> Layer:
    weight = nn.Parameter(torch.randn(64, _WEIGHTS_PER_LAYER // 64, device=device))
    return Layer(name, (), (weight,))


def _median_ms(
    action: Callable[[], object], device: torch.device, before: Callable[[], object] = lambda: None
) -> float:
    """Returns the median time of an action after a warm-up; ``before`` runs untimed each time."""
    times: list[float] = []
    while len(times) < _WARM_UP + _FEWEST or (
        len(times) < _WARM_UP + _MOST and sum(times) < _ENOUGH_MS
    ):
        before()
        times.append(_milliseconds(action, device))
    return float(pd.Series(times[_WARM_UP:]).median())


def _milliseconds(action: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    started = time.perf_counter()
    action()
    _wait_for(device)
    return 1000 * (time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
