"""Final weights of runs, stored in the cache for runs that are initialised from them."""

import hashlib
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import cache_folder, names_in, replacing, set_damaged_aside, unless_damaged


def weights_file(config: RunConfig) -> Path:
    """The file with the final weights of a run."""
    return cache_folder("weights") / f"{config.id}.safetensors"


def save_weights(config: RunConfig, model: nn.Module, accuracy: float) -> None:
    """Stores the final weights of a run, tied ones once, and their accuracy.

    Args:
        config: the run.
        model: its model after the last step.
        accuracy: its final test accuracy.
    """
    state = model.state_dict()
    once = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
    tensors = {name: state[name].contiguous() for name in reversed(once.values())}
    digest = hashlib.sha256(save(tensors)).hexdigest()[:12]
    facts = {"source": config.dataset, "accuracy": str(accuracy), "sha256": digest}
    set_damaged_aside(weights_file(config), names_in)
    with replacing(weights_file(config)) as partial:
        save_file(tensors, partial, facts)


def has_weights(config: RunConfig) -> bool:
    """Whether the final weights of a run are in the cache, in a file that is not damaged."""
    return unless_damaged(weights_file(config), names_in) is not None


def load_weights(config: RunConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Loads the final weights of a run.

    Returns:
        The weights by name, and facts about them: ``source`` (the run's data set), ``accuracy`` on
        it, and ``sha256``.

    Raises:
        UserError: the weights are not in the cache.
    """
    if not has_weights(config):
        raise UserError(
            f"There are no final weights of {config.cell} in the cache: execute it first, with a "
            "lower learning rate if its loss diverged."
        )
    with safe_open(weights_file(config), "pt") as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
