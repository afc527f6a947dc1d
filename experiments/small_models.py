"""Three small networks for 16-pixel images: a residual, a plain and an attention one."""

from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def residual_net(num_classes: int, image_size: int) -> nn.Module:
    """A ResNet of 4 blocks, 16 to 64 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        _Block(16, 16, 1),
        _Block(16, 32, 2),
        _Block(32, 32, 1),
        _Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def plain_net(num_classes: int, image_size: int) -> nn.Module:
    """A VGG of 6 convolutions without norms, 16 to 64 channels."""
    widths = [16, 16, 32, 32, 64, 64]
    parts: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        if i % 2:
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


def attention_net(num_classes: int, image_size: int) -> nn.Module:
    """A vision transformer of 4 blocks on patches of 4 pixels, 48 channels."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=image_size,
        patch_size=4,
        embed_dim=48,
        depth=4,
        num_heads=3,
        num_classes=num_classes,
    )
