"""Overhead of each method's bookkeeping: ``python -m benchmarks.bookkeeping``.

Measured as a share of the training time of ResNet50 as in Table 2, with nothing frozen, which is an
upper bound; and in steps without a decision, for networks of 10 to 1,000 layers.
"""

import math
from itertools import product
from statistics import median

import pandas as pd
import torch
from torch import nn
from torch.optim import SGD
from tqdm import tqdm

from baselines import AutoFreeze, DisplacementRule, FreezeOut
from baselines.freezeout import param_groups
from benchmarks.report import parser, present
from benchmarks.timing import seconds
from benchmarks.workloads import Workload, as_in_table_2
from experiments.reporting.labels import display_name
from smartfrz import AttentionPredictor, Freezer, Layer, SmartFRZ
from smartfrz.policies import Policy

METHODS = ("smartfrz", "displacement", "linear", "autofreeze")
INTERVALS = (20, 156)
"""Steps between two records, and interval of AutoFreeze: as at small, and a tenth of an epoch of
CIFAR-10 in batches of 32."""

LAYERS = (10, 50, 200, 1000)
SHARES = {
    "model": "Model",
    "interval": "Interval (steps)",
    "method": "Method",
    "share": "Share of training time (%)",
}
IDLE = {"layers": "Layers"} | {method: f"{display_name(method)} (µs)" for method in METHODS}


def main() -> None:
    """Reads the command line, measures and writes the tables."""
    options = parser("bookkeeping", __doc__, models=("resnet50",)).parse_args()
    present(
        "bookkeeping",
        options,
        lambda: shares(options.models, options.repeats),
        SHARES,
        "Share of Freezer.step in the training time, with nothing frozen. Records, or AutoFreeze's "
        "decisions, once per interval.",
    )
    present(
        "idle_steps", options, idle_steps, IDLE, "Time of Freezer.step in steps without a decision."
    )


def shares(models: list[str], repeats: int) -> pd.DataFrame:
    """Measures the share of `share` for each network, interval and method."""
    rows = []
    for model in models:
        workload = as_in_table_2(model)
        cases = list(product(INTERVALS, METHODS))
        for interval, method in tqdm(cases, desc=f"bookkeeping, {model}"):
            count = math.ceil(repeats * INTERVALS[0] / interval)
            part = 100 * share(workload, method, interval, count)
            rows.append({"model": model, "interval": interval, "method": method, "share": part})
    return pd.DataFrame(rows)


def idle_steps() -> pd.DataFrame:
    """Measures the time of each method in microseconds, for each number of layers."""
    rows = [
        {"layers": layers} | {method: 1e6 * idle_seconds(method, layers) for method in METHODS}
        for layers in LAYERS
    ]
    return pd.DataFrame(rows)


def idle_seconds(method: str, count: int, steps: int = 300) -> float:
    """Returns the median time of ``Freezer.step`` in seconds, in steps without a decision."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(count + 1)))
    layers = [
        Layer(str(i), (module,), tuple(module.parameters()), is_head=i == count)
        for i, module in enumerate(model)
    ]
    optimizer = SGD(param_groups(model, layers), lr=0.1)
    freezer = Freezer(model, optimizer, policy(method, optimizer, 10**6), layers)
    model(torch.randn(2, 8)).sum().backward()
    taken = []
    for _ in range(1 + steps):
        taken.append(seconds(freezer.step))
        optimizer.step()  # a second call of Freezer.step before it would have no effect
    return median(taken[1:])  # the first step takes a record


def share(workload: Workload, method: str, interval: int, intervals: int) -> float:
    """Returns the share of ``Freezer.step`` in the time of whole intervals."""
    workload.freeze([])
    optimizer = SGD(param_groups(workload.model, workload.layers), lr=1e-4, momentum=0.9)
    freezer = Freezer(
        workload.model, optimizer, policy(method, optimizer, interval), workload.layers
    )
    taken: dict[str, list[float]] = {"train": [], "freezer": []}
    for step in range((1 + intervals) * interval):
        train = seconds(lambda: workload.loss().backward())
        own = seconds(freezer.step)
        train += seconds(optimizer.step)
        optimizer.zero_grad()
        if step >= interval:  # the first interval is a warmup
            taken["train"].append(train)
            taken["freezer"].append(own)
    assert not freezer.frozen
    return sum(taken["freezer"]) / (sum(taken["freezer"]) + sum(taken["train"]))


def policy(method: str, optimizer: SGD, interval: int) -> Policy:
    """Returns the policy of a method, with settings under which it never freezes a layer."""
    match method:
        case "smartfrz":
            return SmartFRZ(AttentionPredictor.from_pretrained(), interval, threshold=1.0)
        case "displacement":
            return DisplacementRule(interval, threshold=0.0)
        case "linear":
            return FreezeOut(optimizer, total_steps=10**9)
        case _:
            return AutoFreeze(interval, intervals_per_epoch=1, percentile=0.0)


if __name__ == "__main__":
    main()
