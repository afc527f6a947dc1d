"""The weights that fine-tuning starts from: published ones, or those of a run of our own."""

import math
from functools import lru_cache

from torch import Tensor, nn

from experiments.config import RunConfig
from experiments.data.sentences import SENTENCES, SENTENCES_LENGTH
from experiments.models.registry import NETWORKS
from experiments.models.weights import load_weights

PUBLISHED = ("imagenet", "books")
"""Data sets whose weights others have published: networks for images, and BERT."""

# What BERT predicts masked words, and the next sentence, with.
_HEADS = ("cls.",)


def pretraining_run(config: RunConfig) -> RunConfig | None:
    """The run that makes the weights that ``config`` starts from, if it is ours to make."""
    source = config.pretraining
    if source is None or source.dataset in PUBLISHED:
        return None
    return RunConfig(
        model=NETWORKS[config.model].pretrained_as or config.model,
        dataset=source.dataset,
        epochs=source.epochs,
        batch_size=source.batch_size,
        lr=source.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        image_size=config.image_size,
        train_images=source.train_images,
        test_images=config.test_images,
        curve_images=config.curve_images,
        augment=config.augment,
        amp=config.amp,
        channels_last=config.channels_last,
        compile=config.compile,
        optimizer=config.optimizer,
        warmup=config.warmup,
        max_length=SENTENCES_LENGTH if source.dataset == SENTENCES else config.max_length,
    )


def load_pretrained(config: RunConfig, model: nn.Module, head: str) -> dict[str, str]:
    """Loads the first weights of a run into its model, all but the head's.

    Args:
        config: the run.
        model: its model, with random weights.
        head: dotted name of the output layer, which stays random.

    Returns:
        What they are: ``source``, and of our own ``accuracy`` there and ``sha256``.

    Raises:
        ValueError: there are no such weights, or they are not made for this model.
    """
    assert config.pretraining is not None
    source = pretraining_run(config)
    if source is None:
        tensors, facts = published_weights(config.model), {"source": config.pretraining.dataset}
    else:
        tensors, facts = load_weights(source)
    heads = (f"{head}.", *_HEADS)
    body = {name: t for name, t in tensors.items() if not name.startswith(heads)}
    body = _resized(body, model.state_dict())
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [name for name, tensor in body.items() if tensor.shape != shapes.get(name)]
    wrong += [name for name in shapes if name not in body and not name.startswith(heads)]
    if wrong:
        raise ValueError(f"The pretrained weights do not fit {config.model}: {wrong[0]}.")
    model.load_state_dict(body, strict=False)
    return facts


def _resized(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with a transformer's position embeddings resampled to the model's resolution."""
    name = "pos_embed"
    if name not in weights or name not in own:
        return weights
    from timm.layers import resample_abs_pos_embed

    side = math.isqrt(own[name].shape[1] - 1)
    return weights | {name: resample_abs_pos_embed(weights[name], [side, side])}


@lru_cache
def has_published_weights(model: str) -> bool:
    """Whether the published weights of a model are on this machine or can be fetched."""
    try:
        published_weights(model)
    except ValueError:
        return False
    return True


def published_weights(model: str) -> dict[str, Tensor]:
    """The published weights of a network, from this machine or the network.

    Raises:
        ValueError: there are none, or they cannot be fetched.
    """
    fetch = NETWORKS[model].published
    if fetch is None:
        raise ValueError(f"Nobody has published weights of {model}: choose other pretraining.")
    try:
        return fetch()
    except Exception as error:  # whatever the network or the hub raise
        raise ValueError(
            f"The published weights of {model} cannot be fetched ({type(error).__name__}): go "
            "online once, or choose another pretraining data set."
        ) from error
