import torch

from .affine_gate import per_channel
from .precision import widened
from .view import per_pixel


def self_gate(
    x: torch.Tensor,
    p0: torch.Tensor,
    p1: torch.Tensor | None = None,
    p2: torch.Tensor | None = None,
    *,
    center: torch.Tensor | None = None,
    groups: int = 1,
) -> torch.Tensor:
    """``channel_shuffle(x * sigmoid(p2 * d**2 + p1 * d + p0), groups)``, ``d = x - center``, in x's
    dtype, rounded once; coefficients (N, C), (C,) or (N or 1, C, 1, 1).
    """
    center, p2, p1 = (None if t is None else per_channel(t) for t in (center, p2, p1))
    return forward(x, center, p2, p1, per_channel(p0), groups)


def forward(x, center, p2, p1, p0, groups: int) -> torch.Tensor:
    """y."""
    f, map = gate(x, center, p2, p1, p0)[1:]
    return shuffled(f * map, groups).to(x.dtype)


def gate(x, center, p2, p1, p0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x's distance from its center, x and the gate, in the accumulate dtype."""
    f = widened(x)
    d = f if center is None else f - per_pixel(center.to(f.dtype))
    u = per_pixel(p0.to(f.dtype))
    if p1 is not None:
        u = u + per_pixel(p1.to(f.dtype)) * d
    if p2 is not None:
        u = u + per_pixel(p2.to(f.dtype)) * d * d
    return d, f, torch.sigmoid(u)


def shuffled(map: torch.Tensor, groups: int) -> torch.Tensor:
    """Channel g * (C / groups) + j becomes channel j * groups + g."""
    if groups == 1:
        return map
    return map.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def gradient_of_logit(dy, x, center, p2, p1, p0, groups: int) -> tuple[torch.Tensor, ...]:
    """d_u, and d, the gate and dy in x's order of channels."""
    d, f, map = gate(x, center, p2, p1, p0)
    dy = shuffled(widened(dy), x.shape[1] // groups)  # the inverse
    return dy * f * (map * (1 - map)), d, map, dy


def sums(dy, x, center, p2, p1, p0, groups: int) -> tuple[torch.Tensor, ...]:
    """d_p2, d_p1 and d_p0, (N, C) in the accumulate dtype."""
    d_u, d, _, _ = gradient_of_logit(dy, x, center, p2, p1, p0, groups)
    return (d_u * d * d).sum((2, 3)), (d_u * d).sum((2, 3)), d_u.sum((2, 3))


def backward(dy, x, center, p2, p1, p0, slope, offset, groups: int) -> torch.Tensor:
    """dx through the gate, + slope * x + offset."""
    d_u, d, map, dy = gradient_of_logit(dy, x, center, p2, p1, p0, groups)
    dx = dy * map
    if p2 is not None:
        dx = dx + d_u * (2 * per_pixel(p2)) * d
    if p1 is not None:
        dx = dx + d_u * per_pixel(p1)
    if slope is not None:
        dx = dx + per_pixel(slope) * widened(x)
    return (dx if offset is None else dx + per_pixel(offset)).to(x.dtype)
