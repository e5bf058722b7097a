import torch

from .precision import widened


def channel_pool(x: torch.Tensor) -> torch.Tensor:
    """``torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)``, in x's dtype."""
    return pooled_statistics(x).to(x.dtype)


def pooled_statistics(x: torch.Tensor) -> torch.Tensor:
    """channel_pool before its rounding: (N, 2, H, W) in the accumulate dtype."""
    x = widened(x)
    return torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
