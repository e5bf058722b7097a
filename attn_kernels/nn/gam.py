from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .. import functional
from ..checks import check_activation, check_bool, check_int
from . import batch_norm
from .children import obstacle, parameter, unfused


class GAMChannelGate(nn.Sequential):
    """GAM's channel attention applied to its input: ``x * activation(mlp(x))`` per pixel.

    (N, C, H, W) -> (N, C, H, W). Parameters: ``0.weight`` (R, C), ``0.bias`` (R,), ``2.weight``
    (C, R) and ``2.bias`` (C,) with R = C // rate, the layers of the MLP. Layers that are more than
    their parameters (hooks, adapters, another activation) are called, and the gate is not fused;
    the module's repr says so.

    Args:
        channels: C.
        rate: how many times fewer the hidden units are.
        activation: "identity", as in the published code, or "sigmoid".

    Raises:
        TypeError: channels or rate is no int.
        ValueError: rate leaves no hidden unit, or the activation is unknown.

    Liu et al., Global Attention Mechanism, 2021.
    """

    def __init__(self, channels: int, rate: int = 4, activation: str = "identity") -> None:
        check_activation(activation)
        super().__init__(*mlp_layers(channels, hidden_channels("channels", channels, rate)))
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if mlp_obstacle(self) is None:
            return fused_channel_gate(x, self, self.activation)
        return called_channel_gate(x, super().forward, self.activation)

    def extra_repr(self) -> str:
        said = f"activation={self.activation!r}", unfused(mlp=mlp_obstacle(self))
        return ", ".join(filter(None, said))


class GAMAttention(nn.Module):
    """Global attention: the channel gate, then a gate by a map from two 7x7 convolutions.

    (N, C, H, W) -> (N, C, H, W). Parameters are those of the published module:
    ``channel_attention.{0,2}`` as in :class:`GAMChannelGate`; ``spatial_attention.{0,3}``, the
    convolutions C -> C // rate -> out_channels, each followed by a batch normalisation,
    ``spatial_attention.{1,4}``. The convolutions are PyTorch's; the last normalisation, the sigmoid
    and the product are one kernel. Layers that are more than their parameters are called, as in
    :class:`GAMChannelGate`.

    The paper's light variant for ResNet-50 is ``groups=rate, channel_shuffle=True``.

    Args:
        in_channels: C.
        out_channels: channels of the spatial map: C, or 1 for a map that all channels share.
        rate: how many times fewer the hidden channels of both branches are.
        groups: groups of both convolutions.
        channel_shuffle: shuffle the channels of the spatial map, after its sigmoid, in `groups`
            groups, as the published code does: map channel ``i * groups + j`` is what the
            convolution made as channel ``j * (C // groups) + i``.
        activation: of the channel gate, "identity" or "sigmoid".

    Raises:
        TypeError: a number is no int, or channel_shuffle no bool.
        ValueError: out_channels is neither in_channels nor 1, rate leaves no hidden channel, groups
            does not divide the channels, or the activation is unknown.

    Liu et al., Global Attention Mechanism, 2021.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        rate: int = 4,
        groups: int = 1,
        channel_shuffle: bool = False,
        activation: str = "identity",
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        for name, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("groups", groups),
        ):
            check_int(name, value)
        check_bool("channel_shuffle", channel_shuffle)
        check_activation(activation)
        if out_channels not in (in_channels, 1):
            raise ValueError(
                f"out_channels: expected in_channels ({in_channels}) or 1, got {out_channels}"
            )
        hidden = hidden_channels("in_channels", in_channels, rate)
        for name, channels in (("in_channels", in_channels), ("in_channels // rate", hidden)):
            if groups < 1 or channels % groups:
                raise ValueError(f"groups: expected a divisor of {name} ({channels}), got {groups}")
        if out_channels % groups:
            raise ValueError(
                f"groups: expected a divisor of out_channels ({out_channels}), got {groups}"
            )
        self.shuffle_groups = groups if channel_shuffle else 1
        self.in_channels, self.activation = in_channels, activation
        self.channel_attention = nn.Sequential(*mlp_layers(in_channels, hidden))
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 7, padding=3, groups=groups),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 7, padding=3, groups=groups),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mlp, branch = self.channel_attention, self.spatial_attention
        if sequential_obstacle(mlp) is None:
            x = fused_channel_gate(x, mlp, self.activation)
        else:
            x = called_channel_gate(x, mlp, self.activation)
        if self._branch_obstacle() is not None:
            return x * self._shuffled(torch.sigmoid(branch(x)))
        modules: Any = branch._modules
        *layers, norm = modules.values()
        a = x
        for layer in layers:
            a = layer(a)
        scale, shift = batch_norm.batch_norm_affine(norm, a)
        if self.shuffle_groups > 1:
            a = self._shuffled(a)
            scale, shift = (t.view(self.shuffle_groups, -1).t().reshape(-1) for t in (scale, shift))
        return functional.scale_gate(x, a, scale, shift)

    def _shuffled(self, map: torch.Tensor) -> torch.Tensor:
        return F.channel_shuffle(map, self.shuffle_groups) if self.shuffle_groups > 1 else map

    def _branch_obstacle(self) -> str | None:
        """What keeps the end of the spatial branch from being an affine gate."""
        branch = self.spatial_attention
        found = obstacle(branch, nn.Sequential)
        if found is not None:
            return found
        modules: Any = branch._modules
        *_, (name, norm) = modules.items()
        found = batch_norm.norm_obstacle(norm)
        if found is None and norm.num_features != self.in_channels:
            # A map that all channels share is small.
            found = f"has {norm.num_features} channels for {self.in_channels}"
        return None if found is None else f"{name} {found}"

    def extra_repr(self) -> str:
        said = unfused(
            channel_attention=sequential_obstacle(self.channel_attention),
            spatial_attention=self._branch_obstacle(),
        )
        options = f"activation={self.activation!r}", f"shuffle_groups={self.shuffle_groups}"
        return ", ".join(filter(None, (*options, said)))


def hidden_channels(name: str, channels: int, rate: int) -> int:
    check_int(name, channels)
    check_int("rate", rate)
    if channels < 1:
        raise ValueError(f"{name}: expected at least 1, got {channels}")
    if not 1 <= rate <= channels:
        raise ValueError(
            f"rate: expected 1 to {channels}, as many as there are channels, got {rate}"
        )
    return channels // rate


def mlp_layers(channels: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)


def sequential_obstacle(mlp: nn.Module) -> str | None:
    return obstacle(mlp, nn.Sequential) or mlp_obstacle(mlp)


def mlp_obstacle(mlp: nn.Module) -> str | None:
    """What keeps the kernel from doing the layers' work: Linear, ReLU, Linear, both with a bias."""
    layers: Any = mlp._modules
    if len(layers) != 3:
        return f"has {len(layers)} layers instead of 3"
    for (name, layer), cls in zip(layers.items(), (nn.Linear, nn.ReLU, nn.Linear), strict=True):
        found = obstacle(layer, cls)
        if found is None and cls is nn.Linear and layer._parameters.get("bias", layer) is None:
            found = "has no bias"
        if found is not None:
            return f"{name} {found}"
    return None


def fused_channel_gate(x: torch.Tensor, mlp: nn.Module, activation: str) -> torch.Tensor:
    layers: Any = mlp._modules
    first, _, second = layers.values()
    return functional.gam_channel_gate(
        x,
        parameter(first, "weight"),
        parameter(first, "bias"),
        parameter(second, "weight"),
        parameter(second, "bias"),
        activation,
    )


def called_channel_gate(
    x: torch.Tensor, mlp: Callable[[torch.Tensor], torch.Tensor], activation: str
) -> torch.Tensor:
    """As the published code: the MLP is called on (N, H * W, C)."""
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
    gate = mlp(tokens).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return x * (torch.sigmoid(gate) if activation == "sigmoid" else gate)
