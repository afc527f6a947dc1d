"""Final weights of runs, kept in the cache for runs that start from them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from experiments.files import cache_folder, replacing, set_aside

if TYPE_CHECKING:
    from experiments.config import RunConfig


def weights_file(config: "RunConfig") -> Path:
    """Where the final weights of a run are kept."""
    return cache_folder("weights") / f"{config.id}.safetensors"


def save_weights(config: "RunConfig", model: nn.Module, accuracy: float) -> None:
    """Keeps the final weights of a run, tied ones once, and the accuracy that they reach."""
    state = model.state_dict()
    once = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
    tensors = {name: state[name].contiguous() for name in reversed(once.values())}
    with replacing(weights_file(config)) as partial:
        digest = hashlib.sha256(save(tensors)).hexdigest()[:12]
        facts = {"source": config.dataset, "accuracy": str(accuracy), "sha256": digest}
        save_file(tensors, partial, facts)


def has_weights(config: "RunConfig") -> bool:
    """Whether the final weights of a run are kept; a damaged file is set aside."""
    file = weights_file(config)
    if not file.exists():
        return False
    try:
        with safe_open(file, "pt"):
            return True
    except SafetensorError as error:
        set_aside(file, error)
        return False


def load_weights(config: "RunConfig") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The final weights of a run, and what they are: ``source``, ``accuracy`` there, ``sha256``.

    Raises:
        ValueError: they were not kept.
    """
    if not has_weights(config):
        raise ValueError(f"{config.cell} left no weights to start from: did its loss diverge?")
    with safe_open(weights_file(config), "pt") as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
