import torch

from .precision import widened

STATISTICS = ("mean", "var", "max", "min")


def squeeze(x: torch.Tensor, statistics: tuple[str, ...] = ("mean",)) -> tuple[torch.Tensor, ...]:
    """Statistics over H x W per (n, c), each (N, C), rounded once to x's dtype."""
    return tuple(statistic(x, name).to(x.dtype) for name in statistics)


def statistic(x: torch.Tensor, name: str) -> torch.Tensor:
    """One of STATISTICS before its rounding: (N, C) in the accumulate dtype. `var` is biased."""
    pixels = widened(x).flatten(2)
    if name == "mean":
        return pixels.mean(2)
    if name == "var":
        return pixels.var(2, correction=0)
    return extreme(pixels, name)[0]


def extreme(pixels: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The "max" or "min" of (N, C, pixels) and the first pixel that holds it, NaN before all."""
    values, places = pixels.max(2) if name == "max" else pixels.min(2)
    return values, places
