import torch

from .spatial_attention import attention_map


def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    return_map: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """``x * spatial_attention(x, weight, bias)`` in x's dtype, rounded once; or (y, map)."""
    map = attention_map(x, weight, bias)
    y = (x * map).to(x.dtype)
    return (y, map.detach().to(x.dtype)) if return_map else y
