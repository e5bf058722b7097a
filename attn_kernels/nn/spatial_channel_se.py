from typing import Any

import torch
from torch import nn

from .. import functional
from .channel_se import ChannelSE
from .children import obstacle, parameter, unfused
from .ending import ended
from .spatial_se import SpatialSE, map_of, one_map_obstacle


class SpatialChannelSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation: ``cSE(x) + sSE(x)``.

    (N, C, H, W) -> (N, C, H, W). Parameters: ``cSE.Conv_Squeeze.weight``,
    ``cSE.Conv_Excitation.weight`` and ``sSE.Conv1x1.weight``, as in the published module. Both
    halves read x once, together, and gate it once. Halves that are more than their parameters are
    called; the module's repr says so.

    Args:
        channels: C, at least 2.

    Raises:
        TypeError: channels is no int.
        ValueError: channels leaves no hidden unit.

    Roy et al., Concurrent Spatial and Channel Squeeze & Excitation, MICCAI 2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cSE = ChannelSE(channels)
        self.sSE = SpatialSE(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ended(x)

    def ended(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, activation: str = "identity"
    ) -> torch.Tensor:
        """``activation(self(x) + residual)``, for `nn.Tail`."""
        of_channels: Any = self.cSE
        of_pixels: Any = self.sSE
        if any(found is not None for found in self._obstacles().values()):
            return ended(of_channels(x) + of_pixels(x), residual, activation)
        conv = of_pixels.Conv1x1
        weight, bias = parameter(conv, "weight"), parameter(conv, "bias")

        def mix(mean, total):
            return of_channels.mix(mean), map_of(total, bias)

        return functional.broadcast_squeeze_gate(
            x, mix, ("mean", "sum"), weight, combine="add", residual=residual, activation=activation
        )

    def _obstacles(self) -> dict[str, str | None]:
        of_pixels: Any = self.sSE
        found = obstacle(of_pixels, SpatialSE) or one_map_obstacle(of_pixels.Conv1x1)
        return {"cSE": obstacle(self.cSE, ChannelSE), "sSE": found}

    def extra_repr(self) -> str:
        return unfused(**self._obstacles())
