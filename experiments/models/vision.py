"""The paper's image networks for any resolution, and their published weights."""

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck


def resnet50(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-50; below 64 pixels the last stage does not reduce the resolution.

    Its feature maps would shrink to one pixel, which is too little for the batch statistics of a
    batch norm: a frozen one uses the running statistics, which would differ from them too much.
    """
    model = torchvision.models.resnet50(num_classes=num_classes, zero_init_residual=True)
    if image_size < 64:
        first = model.layer4[0]
        assert isinstance(first, Bottleneck) and first.downsample is not None
        for conv in (first.conv2, first.downsample[0]):
            conv.stride = (1, 1)
    return model


def vgg11(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's VGG-11; below 224 pixels with the usual single linear layer as classifier.

    The original's three linear layers expect features of 7 x 7 pixels.
    """
    model = torchvision.models.vgg11(num_classes=num_classes)
    if image_size < 224:
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Linear(512, num_classes)
    return model


def mobilenet_v2(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's MobileNetV2."""
    return torchvision.models.mobilenet_v2(num_classes=num_classes)


def deit_tiny(num_classes: int, image_size: int) -> nn.Module:
    """timm's DeiT-T; below 128 pixels with patches of 8 pixels."""
    import timm

    return timm.create_model(
        "deit_tiny_patch16_224",
        num_classes=num_classes,
        img_size=image_size,
        patch_size=16 if image_size >= 128 else 8,
    )


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """Loads torchvision's ImageNet weights of a network."""
    return torchvision.models.get_model(name, weights="IMAGENET1K_V1").state_dict()


def deit_tiny_weights() -> dict[str, Tensor]:
    """Loads timm's ImageNet weights of DeiT-T."""
    import timm

    return timm.create_model("deit_tiny_patch16_224", pretrained=True).state_dict()
