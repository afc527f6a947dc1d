"""Embeddings that share their weights with the head of a language model."""

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smartfrz.distributed import unwrap


def detach_tied_embeddings(model: nn.Module) -> list[RemovableHandle]:
    """Ends the backward pass above embeddings whose weights other modules use, too.

    A head always trains. If it shares its weights with the embedding, as in many causal language
    models, the backward pass runs through all layers to the embedding, frozen or not, and freezing
    saves no more than the layers' weight gradients. After this call the shared weights train by
    what they do in the head alone, and the backward pass ends at the first other layer that trains.

    Weights that are fine-tuned change little on the input side, and `SmartFRZ` with a budget would
    not train the front of a pretrained model. From scratch, the input side has to be learned: do
    not detach it.

    Args:
        model: the model, before it is wrapped or compiled. It is changed in place.

    Returns:
        Handles: ``handle.remove()`` undoes the call.

    Raises:
        ValueError: no embedding of the model shares its weights.
    """
    users: dict[Tensor, int] = {}
    for module in unwrap(model).modules():
        for param in module.parameters(recurse=False):
            users[param] = users.get(param, 0) + 1
    tied = [
        module
        for module in unwrap(model).modules()
        if isinstance(module, nn.Embedding) and users[module.weight] > 1
    ]
    if not tied:
        raise ValueError("No embedding of the model shares its weights with another module.")
    return [module.register_forward_hook(_detached) for module in tied]


def _detached(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.detach()
