import torch

from .precision import widened


def affine_gate(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """``activation(x * scale + shift + residual)``, scale and shift (N, C), rounded once."""
    y = widened(x) * scale.to(widened(x).dtype)[:, :, None, None]
    if shift is not None:
        y = y + shift.to(y.dtype)[:, :, None, None]
    if residual is not None:
        y = y + widened(residual)
    return (torch.relu(y) if activation == "relu" else y).to(x.dtype)
