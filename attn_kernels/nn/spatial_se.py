from typing import Any

import torch
from torch import nn

from .. import functional
from ..checks import check_int
from .children import obstacle, parameter, unfused

GEOMETRY = ((1, 1), (1, 1), (0, 0), 1)  # of a 1x1 convolution: kernel, stride, padding, groups


class SpatialSE(nn.Module):
    """The spatial half of scSE: ``x * sigmoid(Conv1x1(x))``, a convolution to one channel.

    (N, C, H, W) -> (N, C, H, W). The parameter is ``Conv1x1.weight`` (1, C, 1, 1), as in the
    published module. A convolution that is more than its parameters (hooks, adapters, another
    geometry) is called; the module's repr says so.

    Args:
        channels: C.

    Raises:
        TypeError: channels is no int.
        ValueError: there are no channels.

    Roy et al., Concurrent Spatial and Channel Squeeze & Excitation, MICCAI 2018.
    """

    key = "Conv1x1"  # of the convolution

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_int("channels", channels, least=1)
        self.Conv1x1 = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ended(x)

    def ended(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, activation: str = "identity"
    ) -> torch.Tensor:
        """``activation(self(x) + residual)``, for `nn.Tail`."""
        conv: Any = self.Conv1x1
        end: Any = {"residual": residual, "activation": activation}
        if one_map_obstacle(conv) is not None:
            return functional.broadcast_gate(x, conv(x), gate="sigmoid", **end)
        weight, bias = parameter(conv, "weight"), parameter(conv, "bias")
        return functional.broadcast_squeeze_gate(
            x, lambda total: map_of(total, bias), ("sum",), weight, **end
        )

    def extra_repr(self) -> str:
        return unfused(Conv1x1=one_map_obstacle(self.Conv1x1))


def map_of(total: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The map, from the weighted sum over channels."""
    return torch.sigmoid(total if bias is None else total + bias.to(total.dtype)[:, None, None])


def one_map_obstacle(conv: Any) -> str | None:
    """What keeps this child from being a weighted sum over channels, and a bias."""
    found = obstacle(conv, nn.Conv2d)
    if found is not None:
        return found
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.groups
    if geometry != GEOMETRY or conv.out_channels != 1:
        return f"is Conv2d({conv.extra_repr()})"
    return None
