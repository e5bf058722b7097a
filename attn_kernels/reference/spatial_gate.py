import torch

from .channel_pool import pooled_statistics, pooled_statistics_backward
from .spatial_attention import attention_map, attention_map_backward
from .view import finished, finished_backward, viewed, viewed_backward


def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
    return_map: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """``activation(f * sigmoid(conv2d(channel_pool(f), weight, bias)) + residual)`` with
    ``f = scale * x + shift``, in x's dtype, rounded once; or (y, map).
    """
    y, map, _ = forward(x, weight, bias, scale, shift, residual, activation)
    return (y, map.detach().to(x.dtype)) if return_map else y


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, and map and pooled in the accumulate dtype."""
    f = viewed(x, scale, shift)
    pooled = pooled_statistics(f)
    map = attention_map(pooled, weight, bias)
    return finished(f * map, residual, activation, x.dtype), map, pooled


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    map: torch.Tensor,
    pooled: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    y: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """dx, d_weight, d_bias, d_scale, d_shift, d_residual; the last is empty where y is None: then
    it is dy.
    """
    f = viewed(x, scale, shift)
    dr = finished_backward(dy, y)
    d_map = (dr * f).sum(1, keepdim=True)
    d_pooled, d_weight, d_bias = attention_map_backward(d_map, weight, map, pooled)
    df = dr * map + pooled_statistics_backward(d_pooled, f)
    dx, d_scale, d_shift = viewed_backward(df, x, scale)
    d_residual = dr.new_empty(0) if y is None else dr
    return dx, d_weight, d_bias, d_scale, d_shift, d_residual.to(x.dtype)
