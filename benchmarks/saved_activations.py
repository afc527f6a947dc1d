"""Memory saved for the backward pass: ``python -m benchmarks.saved_activations``.

Either nothing is frozen, or all layers but the first and the head, or a random half of them, in 20
draws. The price of ``save_memory`` in time is measured in some of them.
"""

import copy
import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pandas as pd
from torch import nn
from tqdm import tqdm

from benchmarks.figures import kept_memory
from benchmarks.report import parser, present
from benchmarks.timing import median_ratio, seconds, take_turns
from benchmarks.workloads import Workload, make_workload
from smartfrz import Layer, restore_memory, save_memory
from smartfrz.memory import activation_bytes

DRAWS, TIMED_DRAWS = 20, 3
COLUMNS = {
    "model": "Model",
    "frozen": "Frozen",
    "full": "Full training (MiB)",
    "stock": "PyTorch (MiB)",
    "ours": "Ours (MiB)",
    "memsave": "memsave-torch (MiB)",
    "ours_over_stock": "Ours / PyTorch",
    "ours_over_full": "Ours / full",
    "time_over_stock": "Time / PyTorch",
}


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("saved_activations", __doc__).parse_args()
    present(
        "saved_activations",
        options,
        lambda: measure(options.models, options.repeats),
        COLUMNS,
        "Memory saved for the backward pass, inputs included, for two images of 64 x 64 pixels or "
        f"two sentences of 64 tokens. Random halves: means over {DRAWS} draws. Time: of the "
        f"forward and the backward pass with ours, medians of {options.repeats} ratios.",
        kept_memory,
    )


def measure(models: list[str], repeats: int) -> pd.DataFrame:
    """Measures each network and kind of frozen set; a row for each."""
    rows = []
    for model in tqdm(models, desc="saved activations"):
        workload = make_workload(model, batch_size=2, size=64)
        full = kept(workload, workload.model)
        draws: Counter[str] = Counter()
        for frozen, layers in frozen_sets(workload):
            workload.freeze(layers)
            draws[frozen] += 1
            row = {"model": model, "frozen": frozen, "full": full, **kept_by_all(workload)}
            if draws[frozen] <= TIMED_DRAWS:
                row["time_over_stock"] = time_over_stock(workload, repeats)
            rows.append(row)
    means = pd.DataFrame(rows).groupby(["model", "frozen"], sort=False).mean().reset_index()
    means["ours_over_stock"] = means["ours"] / means["stock"]
    means["ours_over_full"] = means["ours"] / means["full"]
    return means


def frozen_sets(workload: Workload) -> Iterator[tuple[str, list[Layer]]]:
    """Yields sets of layers to freeze, each preceded by the name of its kind."""
    yield "nothing", []
    yield "all but stem and head", workload.body[1:]
    for draw in range(DRAWS):
        yield "random half", workload.random_half(draw)


def kept_by_all(workload: Workload) -> dict[str, float]:
    """Measures MiB with PyTorch's freezing, ours, and memsave-torch (NaN if not installed)."""
    stock = kept(workload, workload.model)
    save_memory(workload.model)
    ours = kept(workload, workload.model)
    restore_memory(workload.model)
    converted = by_memsave(workload.model)
    memsave = float("nan") if converted is None else kept(workload, converted)
    return {"stock": stock, "ours": ours, "memsave": memsave}


def time_over_stock(workload: Workload, repeats: int) -> float:
    """Measures the time of a forward and a backward pass with ours, PyTorch's being 1."""

    def timed(prepare: Callable[[nn.Module], None]) -> float:
        prepare(workload.model)
        return seconds(lambda: workload.loss().backward())

    actions = {"stock": partial(timed, restore_memory), "ours": partial(timed, save_memory)}
    taken = take_turns(actions, repeats)
    restore_memory(workload.model)
    workload.model.zero_grad()
    return median_ratio(taken["ours"], taken["stock"])


def kept(workload: Workload, model: nn.Module) -> float:
    """Returns the MiB that a forward pass of the workload's inputs saves for the backward pass."""
    known = [*model.parameters(), *model.buffers()]

    def forward() -> object:
        output = model(workload.inputs.clone())
        return getattr(output, "logits", output)

    return activation_bytes(forward, known) / 2**20


def by_memsave(model: nn.Module) -> nn.Module | None:
    """Returns a copy with the layers of memsave-torch (Bhatia and Dangel, 2024), if installed."""
    try:
        memsave = importlib.import_module("memsave_torch.nn")
    except ImportError:
        return None
    converted: nn.Module = memsave.convert_to_memory_saving(
        copy.deepcopy(model),
        dropout=False,  # its dropout layer fails, since it passes a method for a flag
    )
    for name, module in model.named_modules():
        converted.get_submodule(name).training = module.training
    return converted


if __name__ == "__main__":
    main()
