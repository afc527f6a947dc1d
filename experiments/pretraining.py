"""The weights that fine-tuning starts from: published ones, or those of a run of our own."""

import hashlib
import math
from functools import lru_cache
from pathlib import Path

import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from experiments.checkpoint import replacing, set_aside
from experiments.config import RunConfig
from experiments.models import PRETRAINED_AS
from experiments.paths import cache_folder
from experiments.text import SENTENCES, SENTENCES_LENGTH

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
        model=PRETRAINED_AS.get(config.model, config.model),
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


def weights_file(config: RunConfig) -> Path:
    """Where the final weights of a run are kept."""
    return cache_folder("weights") / f"{config.id}.safetensors"


def save_weights(config: RunConfig, model: nn.Module, accuracy: float) -> None:
    """Keeps the final weights of a run, tied ones once, and the accuracy that they reach."""
    state = model.state_dict()
    once = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
    tensors = {name: state[name].contiguous() for name in reversed(once.values())}
    with replacing(weights_file(config)) as partial:
        digest = hashlib.sha256(save(tensors)).hexdigest()[:12]
        facts = {"source": config.dataset, "accuracy": str(accuracy), "sha256": digest}
        save_file(tensors, partial, facts)


def has_weights(config: RunConfig) -> bool:
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


def load_weights(config: RunConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The final weights of a run, and what they are: ``source``, ``accuracy`` there, ``sha256``.

    Raises:
        ValueError: they were not kept.
    """
    if not has_weights(config):
        raise ValueError(f"{config.cell} left no weights to start from: did its loss diverge?")
    with safe_open(weights_file(config), "pt") as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()


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
        tensors, facts = _published(config.model), {"source": config.pretraining.dataset}
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
        _published(model)
    except ValueError:
        return False
    return True


def _published(model: str) -> dict[str, Tensor]:
    try:
        if model == "bert_base":
            from transformers import BertModel

            state = BertModel.from_pretrained("bert-base-uncased").state_dict()
            return {f"bert.{name}": tensor for name, tensor in state.items()}
        if model == "deit_tiny":
            import timm

            return timm.create_model("deit_tiny_patch16_224", pretrained=True).state_dict()
        return torchvision.models.get_model(model, weights="IMAGENET1K_V1").state_dict()
    except Exception as error:  # whatever the network or the hub raise
        raise ValueError(
            f"The published weights of {model} can't be had ({type(error).__name__}): go online "
            "once, or choose another pretraining data set."
        ) from error
