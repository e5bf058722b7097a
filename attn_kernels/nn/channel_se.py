from typing import Any

import torch
from torch import nn

from .. import functional
from ..checks import check_int
from .children import unfused
from .squeeze_excite import PLAIN, fused, layers_obstacles, pointwise


class ChannelSE(nn.Module):
    """The channel half of scSE: ``x * sigmoid(Conv_Excitation(Conv_Squeeze(mean_hw(x))))``.

    (N, C, H, W) -> (N, C, H, W). Parameters: ``Conv_Squeeze.weight`` (C // 2, C, 1, 1) and
    ``Conv_Excitation.weight`` (C, C // 2, 1, 1), as in the published module, which has no
    activation between them. Layers that are more than their parameters are called, as in
    :class:`SqueezeExcite`.

    Args:
        channels: C, at least 2.

    Raises:
        TypeError: channels is no int.
        ValueError: channels leaves no hidden unit.

    Roy et al., Concurrent Spatial and Channel Squeeze & Excitation, MICCAI 2018.
    """

    squeeze = ("mean",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_int("channels", channels, least=2)
        self.Conv_Squeeze = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.Conv_Excitation = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        modules: Any = self._modules
        squeeze, excitation = modules["Conv_Squeeze"], modules["Conv_Excitation"]
        if layers_obstacles(squeeze, excitation) == PLAIN:
            return fused(x, squeeze, excitation, "identity", "sigmoid")
        return functional.squeeze_gate(x, self.mix, self.squeeze)

    def mix(self, mean: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(pointwise(self.Conv_Excitation, pointwise(self.Conv_Squeeze, mean)))

    def extra_repr(self) -> str:
        found = layers_obstacles(self.Conv_Squeeze, self.Conv_Excitation)
        return unfused(Conv_Squeeze=found[0], Conv_Excitation=found[1])
