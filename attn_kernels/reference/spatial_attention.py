import torch
import torch.nn.functional as F

from .channel_pool import pooled_statistics
from .precision import without_autocast


def spatial_attention(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``sigmoid(conv2d(channel_pool(x), weight, bias, padding=K // 2))``: (N, 1, H, W)."""
    return attention_map(x, weight, bias).to(x.dtype)


def attention_map(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """spatial_attention before its rounding: (N, 1, H, W) in the accumulate dtype."""
    pooled = pooled_statistics(x)
    weight = weight.to(pooled.dtype)
    bias = None if bias is None else bias.to(pooled.dtype)
    with without_autocast(x):
        logit = F.conv2d(pooled, weight, bias, padding=weight.shape[-1] // 2)
    return torch.sigmoid(logit)
