from typing import Any

import torch
from torch import nn

from .. import functional
from ..checks import check_feature_map
from ..functional.operands import product_dtype
from ..functional.squeeze_mix_gate import Statistics, View, squeeze_mix_gate
from .channel_attention import ChannelAttention
from .children import is_traced, obstacle, unfused
from .spatial_attention import SpatialAttention, conv_obstacle, stencil


class CBAM(nn.Module):
    """CBAM whole: ``x1 = x * ca(x)``, ``y = x1 * sa(x1)``; x1 is never stored.

    (N, C, H, W) -> (N, C, H, W). Children: `ca`, a :class:`ChannelAttention`, and `sa`, a
    :class:`SpatialAttention` whose convolution is called `conv`. Parameters:
    ``ca.sharedMLP.{0,2}.weight`` and ``sa.conv.weight``, as in the published modules. The layers of
    `ca` are called as they are, whatever they have become. If `ca`, `sa` or `sa.conv` is more than
    its parameters (hooks, adapters) both are called, and the gate is not fused; the module's repr
    says so.

    Args:
        channels: C.
        ratio: how many times fewer the hidden units of `ca` are.
        kernel_size: K of `sa`, odd and from 1 to 15.

    Raises:
        TypeError: an argument is no int.
        ValueError: there are no channels, ratio leaves no hidden unit, or kernel_size is even or
            out of range.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018.
    """

    def __init__(self, channels: int, ratio: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        self.ca = ChannelAttention(channels, ratio)
        self.sa = SpatialHalf(kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ca, sa = self.ca, self.sa
        if cbam_obstacle(self) is not None:
            x1 = x * ca(x)
            return x1 * sa(x1)
        weight_and_bias = stencil(sa.conv)
        if is_traced(x):
            statistics = functional.squeeze(x, ca.squeeze)
            scale = ca.mix(statistics[0], statistics[1])
            return functional.spatial_gate(x, *weight_and_bias, scale=scale.flatten(1))
        check_feature_map("x", x)

        def view(found: Statistics) -> View:
            scale = ca.mix(*(found[name].to(x.dtype)[..., None, None] for name in ca.squeeze))
            return View(scale, None, product_dtype(x, scale))

        return squeeze_mix_gate(x, ca.squeeze, view, weight_and_bias)

    def extra_repr(self) -> str:
        return cbam_obstacle(self) or ""


class SpatialHalf(SpatialAttention):
    """A :class:`SpatialAttention` whose convolution is called `conv`."""

    key = "conv"


def cbam_obstacle(gate: Any) -> str | None:
    """What keeps CBAM from being one spatial gate of a channel gate's view."""
    ca, sa = gate.ca, gate.sa
    of_sa = obstacle(sa, SpatialHalf)
    found = unfused(ca=obstacle(ca, ChannelAttention), sa=of_sa)
    if not found and of_sa is None:
        found = unfused(**{"sa.conv": conv_obstacle(sa.conv)})
    return found or None
