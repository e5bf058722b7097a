from collections.abc import Sequence

import torch

from .precision import widened
from .view import per_pixel

STATISTICS = ("mean", "var", "max", "min")


def squeeze(x: torch.Tensor, statistics: Sequence[str] = ("mean",)) -> tuple[torch.Tensor, ...]:
    """Statistics over H x W per (n, c), each (N, C, 1, 1), rounded once to x's dtype."""
    return tuple(per_pixel(statistic(x, name).to(x.dtype)) for name in statistics)


def statistic(x: torch.Tensor, name: str) -> torch.Tensor:
    """One of STATISTICS before its rounding: (N, C) in the accumulate dtype. `var` is biased."""
    pixels = widened(x).flatten(2)
    if name == "mean":
        return pixels.mean(2)
    if name == "var":
        return (pixels - pixels.mean(2, keepdim=True)).square().mean(2)
    return extreme(pixels, name)[0]


def extreme(pixels: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The "max" or "min" of (N, C, pixels) and the first pixel that holds it, NaN before all."""
    values, places = pixels.max(2) if name == "max" else pixels.min(2)
    return values, places


def forward(x: torch.Tensor, statistics: int) -> tuple[torch.Tensor, ...]:
    """mean, var, max, min in the accumulate dtype, argmax, argmin; empty where not asked for."""
    pixels = widened(x).flatten(2)
    asked = [name for i, name in enumerate(STATISTICS) if statistics & 1 << i]
    empty, nowhere = pixels.new_empty(0), pixels.new_empty(0, dtype=torch.int64)
    mean, var = (statistic(x, name) if name in asked else empty for name in STATISTICS[:2])
    (high, argmax), (low, argmin) = (
        extreme(pixels, name) if name in asked else (empty, nowhere) for name in STATISTICS[2:]
    )
    return mean, var, high, low, argmax, argmin


def backward(
    dr: torch.Tensor | None,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    slope: torch.Tensor | None,
    offset: torch.Tensor | None,
    argmax: torch.Tensor | None,
    d_max: torch.Tensor | None,
    argmin: torch.Tensor | None,
    d_min: torch.Tensor | None,
) -> torch.Tensor:
    """dx = scale * dr + slope * x + offset + [pixel == argmax] d_max + [pixel == argmin] d_min."""
    dx = torch.zeros_like(widened(x), memory_format=torch.contiguous_format)
    for map, factor in ((dr, scale), (x, slope)):
        if map is not None and factor is not None:
            dx = dx + widened(map) * per_pixel(factor)
    if offset is not None:
        dx = dx + per_pixel(offset)
    for at, gradient in ((argmax, d_max), (argmin, d_min)):
        if at is not None and gradient is not None:
            pixels = dx.flatten(2).scatter_add(2, at[:, :, None], gradient[:, :, None])
            dx = pixels.view_as(x)
    return dx.to(x.dtype)
