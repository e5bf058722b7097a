from collections.abc import Sequence

import torch

from .precision import widened
from .view import finished, finished_backward, per_pixel


def mix(
    x: torch.Tensor | Sequence[torch.Tensor],
    s: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """``activation(sum of s[:, m] * x[m] + residual)`` in x's dtype, rounded once. x: M maps, or
    one whose channels are theirs; s: (N or 1, M, C) or (N or 1, M, C, 1, 1).
    """
    tensors = [x] if isinstance(x, torch.Tensor) else x
    s = s.flatten(2)
    maps = split(tensors, s.shape[1] // len(tensors))
    return finished(mixed(maps, s), residual, activation, tensors[0].dtype)


def mix_squeeze(x: torch.Tensor | Sequence[torch.Tensor], parts: int = 1) -> torch.Tensor:
    """The mean over H x W of the sum of all maps, (N, C, 1, 1), rounded once to x's dtype."""
    tensors = [x] if isinstance(x, torch.Tensor) else x
    return per_pixel(mean_of_sum(split(tensors, parts)).to(tensors[0].dtype))


def split(tensors: Sequence[torch.Tensor | None], parts: int) -> list[torch.Tensor]:
    """The maps in the accumulate dtype: `parts` in the channels of each tensor that is there."""
    there = [widened(t) for t in tensors if t is not None]
    return [map for t in there for map in t.chunk(parts, 1)]


def mixed(maps: Sequence[torch.Tensor], s: torch.Tensor) -> torch.Tensor:
    """The weighted sum, in the accumulate dtype."""
    factors = per_pixel(s.to(maps[0].dtype)).unbind(1)
    terms = [factor * map for factor, map in zip(factors, maps, strict=True)]
    return sum(terms[1:], terms[0])


def mean_of_sum(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(maps[1:], maps[0]).mean((2, 3))


def forward(x, x1, x2, x3, s, residual, activation: str) -> torch.Tensor:
    """y."""
    parts = x.shape[1] // s.shape[2]
    return finished(mixed(split((x, x1, x2, x3), parts), s), residual, activation, x.dtype)


def squeeze(x, x1, x2, x3, parts: int) -> torch.Tensor:
    """(N, C) in the accumulate dtype."""
    return mean_of_sum(split((x, x1, x2, x3), parts))


def sums(dy, x, x1, x2, x3, y, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """d_s (N, M, C) in the accumulate dtype, and dr; empty where y is None: then it is dy."""
    dr = finished_backward(dy, y)
    d_s = torch.stack([(dr * map).sum((2, 3)) for map in split((x, x1, x2, x3), parts)], 1)
    return d_s, (dr.new_empty(0) if y is None else dr).to(x.dtype)


def backward(dr, x, s, offset, tensors: int, parts: int) -> tuple[torch.Tensor, ...]:
    """dx = s * dr + offset of each map, in as many tensors; x says of what shape. The rest of the
    four are empty.
    """
    n, channels, h, w = x.shape
    zeros = torch.zeros_like(widened(x), memory_format=torch.contiguous_format)
    dx = zeros.unflatten(1, (parts, channels // parts)).repeat(1, tensors, 1, 1, 1)
    if dr is not None and s is not None:
        dx = dx + per_pixel(s) * widened(dr)[:, None]
    if offset is not None:
        dx = dx + per_pixel(offset)[:, None]
    found = dx.to(x.dtype).reshape(n, tensors, channels, h, w).unbind(1)
    return *found, *(x.new_empty(0) for _ in range(4 - tensors))
