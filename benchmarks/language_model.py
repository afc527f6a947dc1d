"""Steps of a language model with a frozen prefix: ``python -m benchmarks.language_model``.

A GPT-2 of 124 million parameters, whose embedding shares its weights with the head: as it is, and
with the backward pass ended above the embedding (`detach_tied_embeddings`). Time and memory of a
step stand beside the ideal of `benchmarks.step_time`.
"""

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.report import parser, present
from benchmarks.saved_activations import kept
from benchmarks.step_time import step_times
from benchmarks.workloads import Workload
from smartfrz import detach_tied_embeddings, find_layers
from smartfrz.graph import trace

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
BATCH, TOKENS = 1, 128

COLUMNS = {
    "embedding": "Embedding",
    "fraction": "Share of the blocks' FLOPs that is frozen",
    "compute": "Compute / full",
    "ours_over_full": "Time / full",
    "ours_over_ideal": "Time / ideal",
    "activations": "Activations (MiB)",
    "gradients": "Gradients (MiB)",
    "optimizer": "State of Adam (MiB)",
}


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("language_model", __doc__, models=("gpt2",)).parse_args()
    present(
        "language_model",
        options,
        lambda: measure(GPT2Config(), options.repeats),
        COLUMNS,
        f"Steps of GPT-2 (124 million parameters) with a frozen prefix, a sequence of "
        f"{TOKENS} tokens. Time without the optimizer. Memory of one step.",
    )


def measure(config: GPT2Config, repeats: int) -> pd.DataFrame:
    """Measures the model as it is and with its embedding detached; a row for each frozen part."""
    rows = []
    for embedding in ("tied", "tied, detached"):
        workload = language_model(config, is_detached=embedding != "tied")
        for fraction in tqdm(FRACTIONS, desc=f"GPT-2, embedding {embedding}"):
            case = {"embedding": embedding, "fraction": fraction}
            times = step_times(workload, "prefix", fraction, repeats)
            rows.append({**case, **times, **memory(workload, fraction)})
    return pd.DataFrame(rows)


def language_model(config: GPT2Config, is_detached: bool) -> Workload:
    """Builds the model with random weights, and a batch."""
    torch.manual_seed(0)
    model: nn.Module = GPT2LMHeadModel(config)
    if is_detached:
        detach_tied_embeddings(model)
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    device = next(model.parameters()).device
    tokens = min(TOKENS, config.n_positions)
    inputs = torch.randint(0, config.vocab_size, (BATCH, tokens), device=device)
    return Workload("gpt2", model, inputs, False, find_layers(model, inputs), trace(model, inputs))


def memory(workload: Workload, fraction: float) -> dict[str, float]:
    """Returns MiB of activations, gradients and Adam's state with a part of the layers frozen."""
    workload.freeze(workload.chosen("prefix", fraction))
    trains = [param for param in workload.model.parameters() if param.requires_grad]
    gradients = sum(param.numel() * param.element_size() for param in trains) / 2**20
    activations = kept(workload, workload.model)
    return {"activations": activations, "gradients": gradients, "optimizer": 2 * gradients}


if __name__ == "__main__":
    main()
