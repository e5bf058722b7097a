from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .. import functional
from ..checks import check_feature_map, check_int, check_operand
from . import batch_norm
from .children import is_traced, obstacle, unfused


class AFF(nn.Module):
    """Attentional feature fusion: two maps, weighed against each other by an attention to their
    sum.

    ``2 * x * w + 2 * y * (1 - w)``, ``w = sigmoid(local_att(x + y) + global_att(x + y))``

    (N, C, H, W) twice -> (N, C, H, W). Parameters: ``local_att.{0,1,3,4}`` and
    ``global_att.{1,2,4,5}``, convolutions and norms, as in the published module. The last norm of
    local_att is folded into the gate where it is plain and nothing keeps it from that; the module's
    repr says what does. All other layers are called as they are, whatever they have become.

    Args:
        channels: C.
        r: C // r units are hidden in both attentions.

    Raises:
        TypeError: a number is no int, or x or y no tensor.
        ValueError: there are no channels or hidden units, or y is not of x's shape.

    Dai et al., Attentional Feature Fusion, WACV 2021.
    """

    def __init__(self, channels: int = 64, r: int = 4) -> None:
        super().__init__()
        hidden = hidden_units(channels, r)
        self.channels = channels
        self.local_att = nn.Sequential(*local_layers(channels, hidden))
        self.global_att = nn.Sequential(nn.AdaptiveAvgPool2d(1), *local_layers(channels, hidden))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        check_pair(x, y)
        return fused(self.local_att, self.global_att, x + y, x, y, self.channels, factor=2)

    def extra_repr(self) -> str:
        return unfused(local_att=local_obstacle(self.local_att, self.channels))


class IAFF(nn.Module):
    """Iterative attentional feature fusion: what is attended to is itself a fusion.

    ``x * w2 + y * (1 - w2)``, ``w2 = sigmoid(local_att2(z) + global_att(z))``, where z is ``x * w +
    y * (1 - w)``, ``w = sigmoid(local_att(x + y) + global_att(x + y))``.

    As `AFF`, with the parameters of ``local_att2`` and ``global_att2``, too. As in the published
    code global_att serves both times, and global_att2, which is in its checkpoints, never: it gets
    no gradients.

    Args:
        channels: C.
        r: C // r units are hidden in every attention.

    Raises:
        TypeError: a number is no int, or x or y no tensor.
        ValueError: there are no channels or hidden units, or y is not of x's shape.

    Dai et al., Attentional Feature Fusion, WACV 2021.
    """

    def __init__(self, channels: int = 64, r: int = 4) -> None:
        super().__init__()
        hidden = hidden_units(channels, r)
        self.channels = channels
        self.local_att = nn.Sequential(*local_layers(channels, hidden))
        self.global_att = nn.Sequential(nn.AdaptiveAvgPool2d(1), *local_layers(channels, hidden))
        self.local_att2 = nn.Sequential(*local_layers(channels, hidden))
        self.global_att2 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *local_layers(channels, hidden))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        check_pair(x, y)
        z = fused(self.local_att, self.global_att, x + y, x, y, self.channels)
        return fused(self.local_att2, self.global_att, z, x, y, self.channels)

    def extra_repr(self) -> str:
        return unfused(
            local_att=local_obstacle(self.local_att, self.channels),
            local_att2=local_obstacle(self.local_att2, self.channels),
        )


def fused(
    local: nn.Module,
    of_image: Callable[[torch.Tensor], torch.Tensor],
    map: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    channels: int,
    factor: int = 1,
) -> torch.Tensor:
    """``factor * (x w + y (1 - w))``, ``w = sigmoid(local(map) + of_image(map))``."""
    if local_obstacle(local, channels) is not None:
        w = torch.sigmoid(local(map) + of_image(map))
        return factor * x * w + factor * y * (1 - w)
    modules: Any = local._modules
    *layers, norm = modules.values()
    a = map
    for layer in layers:
        a = layer(a)
    scale, shift = batch_norm.batch_norm_affine(norm, a)
    return functional.blend(x, y, a, scale, shift, of_image(map), factor=factor)


def local_obstacle(local: nn.Module, channels: Any) -> str | None:
    """What keeps the last norm from being an affine function of the branch before it."""
    found = obstacle(local, nn.Sequential)
    if found is not None:
        return found
    modules: Any = local._modules
    if not modules:
        return "has no layers"
    *_, (name, norm) = modules.items()
    found = batch_norm.norm_obstacle(norm)
    if found is None and norm.num_features != channels:
        found = f"has {norm.num_features} channels for {channels}"
    return None if found is None else f"{name} {found}"


def local_layers(channels: int, hidden: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, hidden, 1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
        nn.BatchNorm2d(channels),
    )


def hidden_units(channels: int, r: int) -> int:
    check_int("channels", channels, least=1)
    check_int("r", r, least=1)
    if r > channels:
        raise ValueError(f"r: expected at most channels ({channels}), got {r}")
    return channels // r


def check_pair(x: torch.Tensor, y: torch.Tensor) -> None:
    """Two maps alike; before they are added, which would broadcast them."""
    if not is_traced(x, y):
        check_feature_map("x", x)
        check_operand("y", y, x.shape, x)
