"""Small networks of four families, each in two shapes: base, and deeper and narrower."""

from torch import Tensor, nn
from torch.nn import functional as F


def residual_net(num_classes: int, width: int = 16, blocks: int = 1) -> nn.Module:
    """A ResNet of three stages, ``width`` to ``4 * width`` channels."""
    parts: list[nn.Module] = [*_conv(3, width, 3, 1), nn.ReLU(), _Residual(width, width, 1)]
    channels = width
    for stage in (2, 4):
        for block in range(blocks):
            parts.append(_Residual(channels, stage * width, 2 if block == 0 else 1))
            channels = stage * width
    return nn.Sequential(*parts, *_classifier(channels, num_classes))


def plain_net(num_classes: int, width: int = 16, blocks: int = 2) -> nn.Module:
    """A VGG of three stages without norms, ``width`` to ``4 * width`` channels."""
    parts: list[nn.Module] = []
    channels = 3
    for stage in (1, 2, 4):
        for _ in range(blocks):
            conv = nn.Conv2d(channels, stage * width, 3, padding=1)
            # As in torchvision's VGG: the signal vanishes with PyTorch's default initialisation.
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            parts += [conv, nn.ReLU()]
            channels = stage * width
        parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, *_classifier(channels, num_classes))


def mobile_net(num_classes: int, width: int = 12, blocks: int = 1) -> nn.Module:
    """A MobileNet of inverted residual blocks, ``width`` to ``4 * width`` channels."""
    parts: list[nn.Module] = [*_conv(3, width, 3, 2), nn.ReLU6()]
    channels = width
    for stage, stride in ((1, 1), (2, 2), (4, 2)):
        for block in range(blocks):
            parts.append(_Inverted(channels, stage * width, stride if block == 0 else 1))
            channels = stage * width
    parts += [*_conv(channels, 2 * channels, 1, 1), nn.ReLU6()]
    return nn.Sequential(*parts, *_classifier(2 * channels, num_classes))


def attention_net(
    num_classes: int, image_size: int, width: int = 48, blocks: int = 4, patch_size: int = 4
) -> nn.Module:
    """A vision transformer."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=blocks,
        num_heads=3,
        num_classes=num_classes,
    )


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3, 1)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(*_conv(inputs, outputs, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.body = nn.Sequential(
            *(*_conv(inputs, hidden, 1, 1), nn.ReLU6()),
            *(*_conv(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()),
            *_conv(hidden, outputs, 1, 1),
        )
        self.is_residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.is_residual else self.body(x)


def _conv(
    inputs: int, outputs: int, kernel_size: int, stride: int, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = kernel_size // 2
    conv = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs)


def _classifier(channels: int, num_classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
