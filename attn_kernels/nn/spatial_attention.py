from typing import Any

import torch
from torch import nn

from .. import functional
from ..checks import check_bool, check_int, check_kernel_size
from .children import obstacle, parameter, unfused

# What the kernel computes, by the convolution's kernel_size.
SHAPES = {(k, k): (1, 2, k, k) for k in range(1, 16, 2)}
# Channels, stride, padding, dilation, groups, padding mode.
GEOMETRIES = {
    (k, k): ((2, 1), (1, 1), (k // 2, k // 2), (1, 1), 1, "zeros") for k in range(1, 16, 2)
}


class SpatialAttention(nn.Module):
    """The map of spatial attention: ``sigmoid(conv1(cat[mean_c(x), max_c(x)]))``.

    (N, C, H, W) -> (N, 1, H, W). Parameters: ``conv1.weight`` (1, 2, K, K) and, with ``bias=True``,
    ``conv1.bias`` (1,), as in the widely used eager module. A `conv1` that is more than its
    parameters (hooks, adapters, another padding) is called, and the gate is not fused; the
    module's repr says so.

    Args:
        kernel_size: K, odd and from 1 to 15.
        bias: whether the convolution has one.

    Raises:
        TypeError: kernel_size is no int or bias no bool.
        ValueError: kernel_size is even or out of range.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018.
    """

    key = "conv1"  # of the convolution

    def __init__(self, kernel_size: int = 7, bias: bool = False) -> None:
        super().__init__()
        check_int("kernel_size", kernel_size)
        check_kernel_size("kernel_size", kernel_size)
        check_bool("bias", bias)
        conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)
        self.register_module(self.key, conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv: Any = self._modules[self.key]
        if conv_obstacle(conv) is None:
            return functional.spatial_attention(x, *stencil(conv))
        return torch.sigmoid(conv(functional.channel_pool(x)))

    def extra_repr(self) -> str:
        return unfused(**{self.key: conv_obstacle(self._modules[self.key])})


def stencil(conv: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias as the functions take them."""
    return parameter(conv, "weight"), parameter(conv, "bias")


def conv_obstacle(conv: Any) -> str | None:
    """What keeps the kernel from doing this child's work: one convolution of the pooled map."""
    found = obstacle(conv, nn.Conv2d)
    if found is not None:
        return found
    own, weight = conv.__dict__, conv._parameters.get("weight")
    size, stride, padding = own["kernel_size"], own["stride"], own["padding"]
    channels = own["in_channels"], own["out_channels"]
    geometry = channels, stride, padding, own["dilation"], own["groups"], own["padding_mode"]
    if geometry != GEOMETRIES.get(size) or (weight is not None and weight.shape != SHAPES[size]):
        return f"is Conv2d({conv.extra_repr()})"
    return None
