"""Initial weights for fine-tuning: published weights, or those of a pretraining run."""

import math
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.config import RunConfig
from experiments.data.sentences import SENTENCES, SENTENCES_LENGTH
from experiments.errors import UserError
from experiments.files import (
    cache_folder,
    check_may_download,
    is_out_of_memory,
    names_in,
    replacing,
    set_damaged_aside,
    unless_damaged,
)
from experiments.locks import locked
from experiments.models.packaged import installed, is_installed
from experiments.models.registry import NETWORKS, network
from experiments.models.weights import load_weights

PUBLISHED = ("imagenet", "books", "sentence_pairs")
"""Pretraining data sets with published weights: of image networks, of BERT, and of MiniLM."""

# BERT's heads for masked words and next sentences.
_HEADS = ("cls.",)


def pretraining_run(config: RunConfig) -> RunConfig | None:
    """Returns the pretraining run of a run; None for published weights and from scratch."""
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


def load_pretrained(
    config: RunConfig, model: nn.Module, output_layers: Iterable[str]
) -> dict[str, str]:
    """Loads the pretrained weights of a run into its model, except those of the heads.

    Args:
        config: the run.
        model: its model, with random weights.
        output_layers: dotted names of the heads, which remain random.

    Returns:
        Facts about the weights: ``source``, the data set or the installed package, and for those of
        a pretraining run also ``accuracy`` and ``sha256``.

    Raises:
        UserError: the weights are not available, or do not fit the model.
    """
    assert config.pretraining is not None
    source = pretraining_run(config)
    if source is None:
        tensors, facts = published_weights(config.model), {"source": _published_source(config)}
    else:
        tensors, facts = load_weights(source)
    heads = (*(f"{name}." for name in output_layers), *_HEADS)
    body = {name: t for name, t in tensors.items() if not name.startswith(heads)}
    body = _resized(body, model.state_dict())
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [name for name, tensor in body.items() if tensor.shape != shapes.get(name)]
    wrong += [name for name in shapes if name not in body and not name.startswith(heads)]
    if wrong:
        raise UserError(
            f"The pretrained weights do not fit {config.model}: {wrong[0]} differs. Choose another "
            "pretraining data set."
        )
    model.load_state_dict(body, strict=False)
    return facts


def _published_source(config: RunConfig) -> str:
    assert config.pretraining is not None
    package = network(config.model).package
    return f"{package} {installed(package).version}" if package else config.pretraining.dataset


def _resized(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with a vision transformer's position embeddings resampled to the image size."""
    name = "pos_embed"
    if name not in weights or name not in own:
        return weights
    from timm.layers import resample_abs_pos_embed

    side = math.isqrt(own[name].shape[1] - 1)
    return weights | {name: resample_abs_pos_embed(weights[name], [side, side])}


def has_published_weights(model: str) -> bool:
    """Whether the published weights of a model are in an installed package or in the cache.

    A damaged file in the cache does not count.
    """
    if package := network(model).package:
        return is_installed(package)
    return unless_damaged(published_file(model), names_in) is not None


def published_weights(model: str) -> dict[str, Tensor]:
    """Loads the published weights of a network, and downloads them if necessary.

    Raises:
        UserError: there are none, they cannot be downloaded, or their package is not installed.
    """
    fetch_published_weights(model)
    entry = network(model)
    if entry.package:
        assert entry.published is not None
        return entry.published()
    return load_file(published_file(model))


def fetch_published_weights(model: str) -> None:
    """Downloads the published weights of a network into the cache, if they are not there.

    Those in a package are not downloaded: it has to be installed.

    Raises:
        UserError: there are none, they cannot be downloaded, or their package is not installed.
    """
    if package := network(model).package:
        installed(package)
    if has_published_weights(model):
        return
    what = f"The published weights of {model}"
    fetch = network(model).published
    if fetch is None:
        raise UserError(
            f"There are no published weights of {model}: choose another pretraining data set."
        )
    check_may_download(what)
    with locked(f"published-{model}", what):
        if has_published_weights(model):
            return
        try:
            tensors = {name: tensor.clone().contiguous() for name, tensor in fetch().items()}
        except Exception as error:  # the network and the Hub raise errors of many types
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"{what} cannot be downloaded ({type(error).__name__}): go online once, or choose "
                "another pretraining data set."
            ) from error
        set_damaged_aside(published_file(model), names_in)
        with replacing(published_file(model)) as partial:
            save_file(tensors, partial)


def published_file(model: str) -> Path:
    """The file with the published weights of a model."""
    return cache_folder("published") / f"{model}.safetensors"
