from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .. import functional
from ..autograd import batch_statistics
from ..checks import check_activation
from ..ops import acc_dtype


class GAMChannelGate(nn.Sequential):
    """GAM's channel attention applied to its input: ``x * activation(mlp(x))`` per pixel.

    (N, C, H, W) -> (N, C, H, W). Parameters: ``0.weight`` (R, C), ``0.bias`` (R,), ``2.weight``
    (C, R) and ``2.bias`` (C,) with R = C // rate, the layers of the MLP.

    Args:
        channels: C.
        rate: how many times fewer the hidden units are.
        activation: "identity", as in the published code, or "sigmoid".

    Raises:
        ValueError: rate leaves no hidden unit, or the activation is unknown.

    Liu et al., Global Attention Mechanism, 2021.
    """

    def __init__(self, channels: int, rate: int = 4, activation: str = "identity") -> None:
        check_activation(activation)
        hidden = hidden_channels(channels, rate)
        super().__init__(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = cast(nn.Linear, self[0]), cast(nn.Linear, self[2])
        return functional.gam_channel_gate(
            x, first.weight, first.bias, second.weight, second.bias, self.activation
        )

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


class GAMAttention(nn.Module):
    """Global attention: the channel gate, then a gate by a map from two 7x7 convolutions.

    (N, C, H, W) -> (N, C, H, W). Parameters are those of the published module:
    ``channel_attention.{0,2}`` as in :class:`GAMChannelGate`; ``spatial_attention.{0,3}``, the
    convolutions C -> C // rate -> out_channels, each followed by a batch normalisation,
    ``spatial_attention.{1,4}``. The convolutions are PyTorch's; the last normalisation, the sigmoid
    and the product are one kernel.

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
        if out_channels not in (in_channels, 1):
            raise ValueError(
                f"out_channels: expected in_channels ({in_channels}) or 1, got {out_channels}"
            )
        hidden = hidden_channels(in_channels, rate)
        for name, channels in (("in_channels", in_channels), ("in_channels // rate", hidden)):
            if groups < 1 or channels % groups:
                raise ValueError(f"groups: expected a divisor of {name} ({channels}), got {groups}")
        if out_channels % groups:
            raise ValueError(
                f"groups: expected a divisor of out_channels ({out_channels}), got {groups}"
            )
        self.shuffle_groups = groups if channel_shuffle else 1
        self.channel_attention = GAMChannelGate(in_channels, rate, activation)
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 7, padding=3, groups=groups),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 7, padding=3, groups=groups),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.channel_attention(x)
        conv1, norm1, relu, conv2, norm2 = self.spatial_attention
        a = conv2(relu(norm1(conv1(x))))
        if a.shape[1] != x.shape[1] or type(norm2) is not nn.BatchNorm2d:
            # A map of one channel is small. Another normalisation has its own way to go.
            return x * self._shuffled(torch.sigmoid(norm2(a)))
        scale, shift = batch_norm_affine(norm2, a)
        if self.shuffle_groups > 1:
            a, scale, shift = self._shuffled(a), self._shuffled(scale), self._shuffled(shift)
        return functional.scale_gate(x, a, scale, shift)

    def _shuffled(self, t: torch.Tensor) -> torch.Tensor:
        """Channels shuffled, of a map or of a vector of one value per channel."""
        if self.shuffle_groups == 1:
            return t
        if t.dim() == 1:
            return t.view(self.shuffle_groups, -1).t().reshape(-1)
        return F.channel_shuffle(t, self.shuffle_groups)

    def extra_repr(self) -> str:
        return f"shuffle_groups={self.shuffle_groups}"


def hidden_channels(channels: int, rate: int) -> int:
    if rate < 1 or channels < rate:
        raise ValueError(
            f"rate: expected 1 to {channels}, as many as there are channels, got {rate}"
        )
    return channels // rate


def batch_norm_affine(norm: nn.BatchNorm2d, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and shift (C,) such that norm(a) is a * scale + shift; running statistics are updated
    as norm(a) would.
    """
    acc = acc_dtype(a)
    if norm.training or norm.running_mean is None or norm.running_var is None:
        count = a.numel() // a.shape[1]
        if norm.training and count == 1:
            raise ValueError("x: expected more than one value per channel when training, got one")
        var, mean = batch_statistics(a)
        if norm.training and norm.track_running_stats:
            # The running variance is unbiased.
            update_running(norm, mean.detach(), var.detach() * (count / (count - 1)))
    else:
        var, mean = norm.running_var.to(acc), norm.running_mean.to(acc)
    scale = torch.rsqrt(var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.to(acc)
    shift = -mean * scale
    return scale, shift + norm.bias.to(acc) if norm.affine else shift


def update_running(norm: nn.BatchNorm2d, mean: torch.Tensor, var: torch.Tensor) -> None:
    """As nn.BatchNorm2d: a moving average, or the plain one where momentum is None."""
    batches = cast(torch.Tensor, norm.num_batches_tracked)
    batches.add_(1)
    share = 1 / batches.to(mean.dtype) if norm.momentum is None else norm.momentum
    for running, batch in ((norm.running_mean, mean), (norm.running_var, var)):
        if running is not None:
            running.add_((batch - running) * share)
