"""The networks of the tables, by name."""

from collections.abc import Callable

import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from experiments.small_models import attention_net, mobile_net, plain_net, residual_net


def _resnet50(num_classes: int, image_size: int) -> nn.Module:
    """Below 64 pixels the last stage keeps its resolution.

    Its maps would shrink to one pixel: too few values for the statistics of a batch norm, and
    frozen ones, which use the running statistics, would not stand in for them.
    """
    model = torchvision.models.resnet50(num_classes=num_classes, zero_init_residual=True)
    if image_size < 64:
        first = model.layer4[0]
        assert isinstance(first, Bottleneck) and first.downsample is not None
        for conv in (first.conv2, first.downsample[0]):
            conv.stride = (1, 1)
    return model


def _vgg11(num_classes: int, image_size: int) -> nn.Module:
    """Below 224 pixels the three linear layers for 7 x 7 features give way to one, as is usual."""
    model = torchvision.models.vgg11(num_classes=num_classes)
    if image_size < 224:
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Linear(512, num_classes)
    return model


def _mobilenet_v2(num_classes: int, image_size: int) -> nn.Module:
    return torchvision.models.mobilenet_v2(num_classes=num_classes)


def _deit_tiny(num_classes: int, image_size: int) -> nn.Module:
    import timm

    return timm.create_model(
        "deit_tiny_patch16_224",
        num_classes=num_classes,
        img_size=image_size,
        patch_size=16 if image_size >= 128 else 8,
    )


def _bert(name: str) -> Callable[[int, int], nn.Module]:
    def build(num_classes: int, image_size: int) -> nn.Module:
        # transformers takes seconds to import.
        from experiments.bert import bert

        return bert(name, num_classes)

    return build


def _masked_bert(name: str) -> Callable[[int, int], nn.Module]:
    def build(num_classes: int, image_size: int) -> nn.Module:
        from experiments.bert import masked_bert

        return masked_bert(name)

    return build


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet50": _resnet50,
    "vgg11": _vgg11,
    "mobilenet_v2": _mobilenet_v2,
    "deit_tiny": _deit_tiny,
    "bert_tiny": _bert("bert_tiny"),
    "bert_mini": _bert("bert_mini"),
    "bert_base": _bert("bert_base"),
    "bert_mini_masked": _masked_bert("bert_mini"),
    "bert_base_masked": _masked_bert("bert_base"),
    "residual": lambda classes, size: residual_net(classes),
    "residual_deep": lambda classes, size: residual_net(classes, width=12, blocks=3),
    "plain": lambda classes, size: plain_net(classes),
    "plain_deep": lambda classes, size: plain_net(classes, width=12, blocks=4),
    "mobile": lambda classes, size: mobile_net(classes, blocks=2),
    "mobile_deep": lambda classes, size: mobile_net(classes, width=8, blocks=4),
    "attention": attention_net,
    "attention_deep": lambda classes, size: attention_net(classes, size, blocks=8, patch_size=8),
}

PRETRAINED_AS = {"bert_mini": "bert_mini_masked", "bert_base": "bert_base_masked"}
"""The models that are pretrained with another head: which, and as what."""

FAMILIES = {
    "residual": ("resnet50", "residual", "residual_deep"),
    "plain": ("vgg11", "plain", "plain_deep"),
    "mobile": ("mobilenet_v2", "mobile", "mobile_deep"),
    "attention": (
        "deit_tiny",
        "bert_tiny",
        "bert_mini",
        "bert_base",
        "attention",
        "attention_deep",
    ),
}
"""The networks that are alike: a predictor is new to a family if it has seen none of them."""


def family(name: str) -> str:
    """The family of a network."""
    return next(family for family, names in FAMILIES.items() if name in names)


def build_model(name: str, num_classes: int, image_size: int) -> nn.Module:
    """A network with random weights.

    Raises:
        ValueError: there is no such network.
    """
    if name not in MODELS:
        raise ValueError(f"There is no model {name!r}: choose from {', '.join(MODELS)}.")
    return MODELS[name](num_classes, image_size)
