import torch

from .view import viewed, viewed_backward


def channel_pool(
    x: torch.Tensor, scale: torch.Tensor | None = None, shift: torch.Tensor | None = None
) -> torch.Tensor:
    """``torch.cat([f.mean(1, keepdim=True), f.max(1, keepdim=True).values], 1)`` in x's dtype, with
    ``f = scale * x + shift``.
    """
    return pooled_statistics(viewed(x, scale, shift)).to(x.dtype)


def pooled_statistics(f: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over channels: (N, 2, H, W)."""
    return torch.cat([f.mean(1, keepdim=True), f.max(1, keepdim=True).values], 1)


def pooled_statistics_backward(d_pooled: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """df; a maximum that channels share sends its gradient to the first of them."""
    d_mean, d_max = d_pooled.to(f.dtype).split(1, 1)
    first = f.max(1, keepdim=True).indices
    return (d_mean / f.shape[1]).expand_as(f).scatter_add(1, first, d_max)


def backward(
    d_pooled: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """dx, d_scale, d_shift."""
    df = pooled_statistics_backward(d_pooled, viewed(x, scale, shift))
    return viewed_backward(df, x, scale)
