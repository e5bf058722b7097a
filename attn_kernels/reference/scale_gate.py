import torch

from .precision import widened
from .view import per_pixel


def scale_gate(
    x: torch.Tensor, a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """``x * sigmoid(a * scale[c] + shift[c])``, rounded once, in the wider dtype of x and a."""
    dtype = torch.promote_types(x.dtype, a.dtype)
    x, a = widened(x.to(dtype)), widened(a.to(dtype))
    return (x * gate(a, scale, shift)).to(dtype)


def gate(a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    scale, shift = (per_pixel(of_images(p, a)) for p in (scale, shift))
    return torch.sigmoid(a * scale + shift)


def of_images(p: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """(C,), or (G, C) for G equal parts of the images, as it multiplies (N, C)."""
    p = p.to(a.dtype)
    return p if p.dim() == 1 else p.repeat_interleave(a.shape[0] // p.shape[0], 0)


def over_images(t: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The sum of t (N, C) over the images of each set of p."""
    return t.sum(0) if p.dim() == 1 else t.unflatten(0, (p.shape[0], -1)).sum(1)


def backward(
    dy: torch.Tensor, x: torch.Tensor, a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """dx, da, and d_scale and d_shift in the accumulate dtype."""
    dtype, dy, x, a = x.dtype, widened(dy), widened(x), widened(a)
    g = gate(a, scale, shift)
    d_logit = dy * x * g * (1 - g)
    da = d_logit * per_pixel(of_images(scale, a))
    d_affine = (over_images(t.sum((2, 3)), scale) for t in (d_logit * a, d_logit))
    return (dy * g).to(dtype), da.to(dtype), *d_affine
