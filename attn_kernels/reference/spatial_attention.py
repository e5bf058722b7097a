import torch
import torch.nn.functional as F

from .channel_pool import pooled_statistics, pooled_statistics_backward
from .precision import without_autocast
from .view import viewed, viewed_backward


def spatial_attention(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """``sigmoid(conv2d(channel_pool(x, scale, shift), weight, bias, padding=K // 2))``."""
    map, _ = forward(x, weight, bias, scale, shift)
    return map.to(x.dtype)


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """map and pooled, in the accumulate dtype."""
    pooled = pooled_statistics(viewed(x, scale, shift))
    return attention_map(pooled, weight, bias), pooled


def attention_map(
    pooled: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """(N, 1, H, W) from pooled (N, 2, H, W); of G weights and biases image n has number n G / N."""
    groups = weight.shape[0]
    weight = weight.to(pooled.dtype)
    bias = None if bias is None else bias.to(pooled.dtype)
    with without_autocast(pooled):
        logit = F.conv2d(
            side_by_side(pooled, groups), weight, bias, padding=weight.shape[-1] // 2, groups=groups
        )
    return torch.sigmoid(one_by_one(logit, groups))


def attention_map_backward(
    d_map: torch.Tensor, weight: torch.Tensor, map: torch.Tensor, pooled: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """d_pooled, d_weight, d_bias."""
    groups, padding = weight.shape[0], weight.shape[-1] // 2
    d_logit = side_by_side(d_map.to(map.dtype) * map * (1 - map), groups)
    d_pooled, d_weight, d_bias = torch.ops.aten.convolution_backward(
        d_logit,
        side_by_side(pooled, groups),
        weight,
        [groups],
        [1, 1],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        groups,
        [True, True, True],
    )
    return one_by_one(d_pooled, groups), d_weight, d_bias


def side_by_side(t: torch.Tensor, groups: int) -> torch.Tensor:
    """(G n, c, H, W) -> (n, G c, H, W): images of different weights as channels of a grouped
    convolution.
    """
    return t if groups == 1 else t.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)


def one_by_one(t: torch.Tensor, groups: int) -> torch.Tensor:
    """(n, G c, H, W) -> (G n, c, H, W)."""
    return t if groups == 1 else t.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)


def backward(
    d_map: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    map: torch.Tensor,
    pooled: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """dx, d_weight, d_bias, d_scale, d_shift."""
    d_pooled, d_weight, d_bias = attention_map_backward(d_map, weight, map, pooled)
    df = pooled_statistics_backward(d_pooled, viewed(x, scale, shift))
    dx, d_scale, d_shift = viewed_backward(df, x, scale)
    return dx, d_weight, d_bias, d_scale, d_shift
