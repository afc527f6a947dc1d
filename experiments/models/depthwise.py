"""Faster weight gradients of depthwise convolutions on a CPU.

PyTorch spends most of a step of EfficientNet-Lite0 on them: with large kernels or many channels on
small feature maps, its kernel is up to a hundred times as slow as one product for each weight.
"""

from typing import Any

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

_MANY_CHANNELS = 1000


def speed_up_depthwise(model: nn.Module) -> None:
    """Changes the depthwise convolutions of a model that PyTorch is slow at, in place.

    Outputs stay the same bit for bit, weight gradients up to rounding.
    """
    for module in model.modules():
        replacement = _REPLACEMENTS.get(type(module))
        if replacement is not None and _is_slow(module):
            module.__class__ = replacement


def _is_slow(conv: nn.Module) -> bool:
    assert isinstance(conv, nn.Conv2d)
    is_depthwise = 1 < conv.groups == conv.in_channels == conv.out_channels
    is_plain = conv.bias is None and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    is_known = not isinstance(conv.padding, str)
    is_large = max(conv.kernel_size) > 3 or conv.in_channels > _MANY_CHANNELS
    return is_depthwise and is_plain and is_known and is_large


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with a weight gradient of its own."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(inputs, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = None
        if ctx.needs_input_grad[0]:
            of_inputs = conv2d_input(
                inputs.shape, weight, gradient, ctx.stride, ctx.padding, groups=len(weight)
            )
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(inputs, weight, gradient, ctx.stride, ctx.padding)
        return of_inputs, of_weight, None, None


def _weight_gradient(
    inputs: Tensor,
    weight: Tensor,
    gradient: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Computes one weight of all channels at a time, on (B, H, W, C) contiguous tensors."""
    (rows, columns), (down, right) = weight.shape[2:], padding
    padded = F.pad(inputs.permute(0, 2, 3, 1), (0, 0, right, right, down, down))
    upper = gradient.permute(0, 2, 3, 1).contiguous()
    product, found = torch.empty_like(upper), torch.empty_like(weight)
    height, width = upper.shape[1:3]
    for i in range(rows):
        for j in range(columns):
            bottom, last = i + (height - 1) * stride[0] + 1, j + (width - 1) * stride[1] + 1
            torch.mul(upper, padded[:, i : bottom : stride[0], j : last : stride[1]], out=product)
            found[:, 0, i, j] = product.flatten(0, 2).sum(dim=0)
    return found


class _DepthwiseConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return _Depthwise.apply(input, self.weight, self.stride, self.padding)


class _DepthwiseConv2dSame(Conv2dSame):
    def forward(self, x: Tensor) -> Tensor:
        padded = pad_same(x, [*self.kernel_size], [*self.stride], [*self.dilation])
        return _Depthwise.apply(padded, self.weight, self.stride, (0, 0))


_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _DepthwiseConv2d,
    Conv2dSame: _DepthwiseConv2dSame,
}
