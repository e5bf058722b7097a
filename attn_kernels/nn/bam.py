from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from .. import functional
from ..checks import check_int
from .children import obstacle, unfused


class BAMChannelGate(nn.Module):
    """BAM's channel half: an MLP with a batch norm, of the mean of each channel.

    (N, C, H, W) -> (N, C, 1, 1), to be multiplied by the spatial half.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate_c = named_layers(
            flatten=nn.Flatten(),
            gate_c_fc_0=nn.Linear(channels, hidden),
            gate_c_bn_1=nn.BatchNorm1d(hidden),
            gate_c_relu_1=nn.ReLU(),
            gate_c_fc_final=nn.Linear(hidden, channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.of_mean(x.mean((2, 3), keepdim=True))

    def of_mean(self, mean: torch.Tensor) -> torch.Tensor:
        return self.gate_c(mean)[:, :, None, None]


class BAMSpatialGate(nn.Module):
    """BAM's spatial half: convolutions, two of them dilated, to one channel.

    (N, C, H, W) -> (N, 1, H, W).
    """

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "gate_s_conv_reduce0": nn.Conv2d(channels, hidden, 1),
            "gate_s_bn_reduce0": nn.BatchNorm2d(hidden),
            "gate_s_relu_reduce0": nn.ReLU(),
        }
        for i in range(2):
            layers |= {
                f"gate_s_conv_di_{i}": nn.Conv2d(
                    hidden, hidden, 3, padding=dilation, dilation=dilation
                ),
                f"gate_s_bn_di_{i}": nn.BatchNorm2d(hidden),
                f"gate_s_relu_di_{i}": nn.ReLU(),
            }
        self.gate_s = named_layers(**layers, gate_s_conv_final=nn.Conv2d(hidden, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate_s(x)


class BAM(nn.Module):
    """The bottleneck attention module: ``x * (1 + sigmoid(channel_att(x) * spatial_att(x)))``.

    (N, C, H, W) -> (N, C, H, W), of any H and W (the published code needs them to be equal).
    Parameters: those of ``channel_att.gate_c`` and ``spatial_att.gate_s``, with the published
    names. Neither the product of both halves nor its sigmoid is ever stored. Layers are called as
    they are, whatever they have become.

    Args:
        channels: C.
        reduction: C // reduction units are hidden in both halves.
        dilation: of the 3x3 convolutions.

    Raises:
        TypeError: a number is no int.
        ValueError: there are no channels or hidden units, or dilation is below 1.

    Park et al., BAM: Bottleneck Attention Module, BMVC 2018.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4) -> None:
        super().__init__()
        check_int("channels", channels, least=1)
        check_int("reduction", reduction, least=1)
        check_int("dilation", dilation, least=1)
        hidden = channels // reduction
        if hidden < 1:
            raise ValueError(f"reduction: expected at most channels ({channels}), got {reduction}")
        self.channel_att = BAMChannelGate(channels, hidden)
        self.spatial_att = BAMSpatialGate(channels, hidden, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ended(x)

    def ended(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, activation: str = "identity"
    ) -> torch.Tensor:
        """``activation(self(x) + residual)``, for `nn.Tail`."""
        of_channels: Any = self.channel_att
        map = self.spatial_att(x)
        form: Any = {"gate": "sigmoid", "skip": True}
        form |= {"residual": residual, "activation": activation}
        if obstacle(of_channels, BAMChannelGate) is not None:
            return functional.broadcast_gate(x, of_channels(x), map, **form)
        return functional.broadcast_squeeze_gate(
            x, lambda mean: (of_channels.of_mean(mean), map), ("mean",), **form
        )

    def extra_repr(self) -> str:
        return unfused(channel_att=obstacle(self.channel_att, BAMChannelGate))


def named_layers(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))
