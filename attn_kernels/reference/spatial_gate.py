import torch

from .spatial_attention import attention_map


def spatial_gate(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``x * spatial_attention(x, weight, bias)``, rounded once, in x's dtype."""
    return (x * attention_map(x, weight, bias)).to(x.dtype)
