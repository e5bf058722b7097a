import torch

from .precision import widened
from .view import finished, finished_backward, viewed


def affine_gate(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """``activation(scale * x + shift + residual)`` in x's dtype, rounded once; scale and shift
    (N, C), (C,) or (N or 1, C, 1, 1).
    """
    shift = None if shift is None else per_channel(shift)
    return forward(x, per_channel(scale), shift, residual, activation)


def per_channel(t: torch.Tensor) -> torch.Tensor:
    """(N or 1, C, 1, 1) without its pixel."""
    return t.flatten(1) if t.dim() == 4 else t


def forward(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
) -> torch.Tensor:
    """y."""
    return finished(viewed(x, scale, shift), residual, activation, x.dtype)


def sums(
    dy: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """d_scale and d_shift in the accumulate dtype, and dr; empty where y is None: then it is dy."""
    dr = finished_backward(dy, y)
    d_scale, d_shift = (dr * widened(x)).sum((2, 3)), dr.sum((2, 3))
    return d_scale, d_shift, (dr.new_empty(0) if y is None else dr).to(x.dtype)
