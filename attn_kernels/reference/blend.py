import torch

from .affine_gate import per_channel
from .precision import widened
from .view import per_pixel


def blend(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    g: torch.Tensor | None = None,
    *,
    factor: float = 1.0,
) -> torch.Tensor:
    """``factor * (x * w + y * (1 - w))``, ``w = sigmoid(a * scale + shift + g)``, rounded once, in
    the widest dtype of x, y and a; scale, shift and g (N, C), (C,) or (N or 1, C, 1, 1).
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), a.dtype)
    x, y, a = (t.to(dtype) for t in (x, y, a))
    acc = widened(x).dtype
    offset = per_channel(shift).to(acc)
    if g is not None:
        offset = offset + per_channel(g).to(acc)
    return forward(x, y, a, per_channel(scale), offset, factor)


def forward(x, y, a, scale, shift, factor: float) -> torch.Tensor:
    """z."""
    w = weight(a, scale, shift)
    return (factor * (widened(x) * w + widened(y) * (1 - w))).to(x.dtype)


def weight(a, scale, shift) -> torch.Tensor:
    """w in the accumulate dtype."""
    a = widened(a)
    return torch.sigmoid(a * per_pixel(scale.to(a.dtype)) + per_pixel(shift.to(a.dtype)))


def backward(dz, x, y, a, scale, shift, factor: float) -> tuple[torch.Tensor, ...]:
    """dx, dy, da, and d_scale and d_shift (N, C) in the accumulate dtype."""
    w, d_blended = weight(a, scale, shift), factor * widened(dz)
    d_logit = d_blended * (widened(x) - widened(y)) * (w * (1 - w))
    maps = d_blended * w, d_blended * (1 - w), d_logit * per_pixel(scale)
    d_scale, d_shift = (d_logit * widened(a)).sum((2, 3)), d_logit.sum((2, 3))
    return *(t.to(x.dtype) for t in maps), d_scale, d_shift
