"""The affine view on a map, and the epilogue of a gate: what every gate has around its formula."""

import torch

from .precision import widened


def per_pixel(t: torch.Tensor) -> torch.Tensor:
    """(C,) or (N, C) as it multiplies a map."""
    return t[..., None, None]


def viewed(x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None) -> torch.Tensor:
    """``scale * x + shift`` in the accumulate dtype; None: 1 and 0."""
    f = widened(x)
    if scale is not None:
        f = f * per_pixel(scale.to(f.dtype))
    return f if shift is None else f + per_pixel(shift.to(f.dtype))


def viewed_backward(
    df: torch.Tensor, x: torch.Tensor, scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dx, d_scale and d_shift of `viewed` with scale and shift (N, C); empty without a view."""
    if scale is None:
        return df.to(x.dtype), df.new_empty(0), df.new_empty(0)
    return (df * per_pixel(scale)).to(x.dtype), (df * widened(x)).sum((2, 3)), df.sum((2, 3))


def finished(
    gated: torch.Tensor, residual: torch.Tensor | None, activation: str, dtype: torch.dtype
) -> torch.Tensor:
    """``activation(gated + residual)``, rounded once."""
    y = gated if residual is None else gated + widened(residual)
    return (torch.relu(y) if activation == "relu" else y).to(dtype)


def finished_backward(dy: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    """dr, the gradient of what the ReLU got, in the accumulate dtype; y is None without a ReLU."""
    dr = widened(dy)
    return dr if y is None else dr.masked_fill(y <= 0, 0)
