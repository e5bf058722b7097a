from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .. import functional
from ..checks import check_int
from .children import obstacle, parameter, unfused


class ShuffleAttention(nn.Module):
    """Shuffle attention: in each group of channels the first half is gated by its mean, the second
    by its normalised self, and the halves' channels are shuffled.

    ``x0 * sigmoid(cweight * mean_hw(x0) + cbias)``, ``x1 * sigmoid(sweight * gn(x1) + sbias)``.

    (N, C, H, W) -> (N, C, H, W). Parameters: ``cweight``, ``cbias``, ``sweight``, ``sbias`` (1, C /
    2G, 1, 1), ``gn.weight`` and ``gn.bias`` (C / 2G), as in the published module. A norm that is
    more than its parameters is called; the module's repr says so.

    Args:
        channels: C, a multiple of 2G.
        groups: G.

    Raises:
        TypeError: a number is no int.
        ValueError: channels is no multiple of 2 * groups.

    Zhang and Yang, SA-Net: Shuffle Attention for Deep Convolutional Neural Networks, ICASSP 2021.
    """

    def __init__(self, channels: int, groups: int = 64) -> None:
        super().__init__()
        check_int("channels", channels, least=1)
        check_int("groups", groups, least=1)
        if channels % (2 * groups):
            raise ValueError(
                f"channels: expected a multiple of 2 * groups ({2 * groups}), got {channels}"
            )
        self.groups = groups
        half = channels // (2 * groups)
        self.cweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.gn = nn.GroupNorm(half, half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._norm_obstacle() is not None:
            return self._called(x)
        return functional.self_squeeze_gate(x, self._mix, groups=2)

    def _mix(self, mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        norm: Any = self.gn
        cweight, cbias, sweight, sbias = (
            p.to(mean.dtype) for p in (self.cweight, self.cbias, self.sweight, self.sbias)
        )
        weight, bias = (parameter(norm, name) for name in ("weight", "bias"))
        # (N, G, 2, C / 2G, 1, 1): the halves of each group.
        halves = (self.groups, 2, -1)
        first = mean.unflatten(1, halves)[:, :, 0]
        slope = sweight * torch.rsqrt(var.unflatten(1, halves)[:, :, 1] + norm.eps)
        p1 = slope if weight is None else slope * weight.to(mean.dtype)[:, None, None]
        shift = sbias if bias is None else sbias + sweight * bias.to(mean.dtype)[:, None, None]
        p0 = torch.stack([cweight * first + cbias, shift.expand_as(first)], 2)
        p1 = torch.stack([torch.zeros_like(p1), p1], 2)
        return p0.flatten(1, 3), p1.flatten(1, 3), None, mean

    def _called(self, x: torch.Tensor) -> torch.Tensor:
        """As the published code."""
        n, c, h, w = x.shape
        x0, x1 = x.reshape(n * self.groups, -1, h, w).chunk(2, 1)
        of_mean = self.cweight * x0.mean((2, 3), keepdim=True) + self.cbias
        of_self = self.sweight * self.gn(x1) + self.sbias
        y = torch.cat([x0 * torch.sigmoid(of_mean), x1 * torch.sigmoid(of_self)], 1)
        return F.channel_shuffle(y.reshape(n, c, h, w), 2)

    def _norm_obstacle(self) -> str | None:
        """What keeps this child from being a normalisation of each channel."""
        norm: Any = self.gn
        found = obstacle(norm, nn.GroupNorm)
        if found is None and norm.num_groups != norm.num_channels:
            return f"is GroupNorm({norm.extra_repr()})"
        return found

    def extra_repr(self) -> str:
        said = unfused(gn=self._norm_obstacle())
        return ", ".join(filter(None, (f"groups={self.groups}", said)))
