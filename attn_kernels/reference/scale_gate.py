import torch

from .precision import widened


def scale_gate(
    x: torch.Tensor, a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """``x * sigmoid(a * scale[c] + shift[c])``, rounded once, in the wider dtype of x and a."""
    dtype = torch.promote_types(x.dtype, a.dtype)
    x, a = widened(x.to(dtype)), widened(a.to(dtype))
    scale, shift = (p.to(x.dtype).view(-1, 1, 1) for p in (scale, shift))
    return (x * torch.sigmoid(a * scale + shift)).to(dtype)
