from collections.abc import Sequence

import torch

from .broadcast_gate import factor
from .precision import widened

STATISTICS = ("mean", "sum", "rows", "columns")


def broadcast_squeeze(
    x: torch.Tensor,
    statistics: Sequence[str] = ("rows", "columns"),
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Statistics that broadcast to x, rounded once to x's dtype: "mean" over pixels (N, C, 1, 1),
    "rows" (N, C, H, 1) and "columns" (N, C, 1, W), the means of each, and "sum" (N, 1, H, W) over
    channels with the weight (C,), (N, C) or (N or 1, C, 1, 1).
    """
    if weight is not None:
        weight = (weight if weight.dim() == 4 else weight[..., None, None]).expand(
            *x.shape[:2], 1, 1
        )
    found = forward(x, weight, sum(1 << STATISTICS.index(name) for name in statistics))
    return tuple(found[STATISTICS.index(name)].to(x.dtype) for name in statistics)


def forward(
    x: torch.Tensor, weight: torch.Tensor | None, statistics: int
) -> tuple[torch.Tensor, ...]:
    """mean, sum, rows, columns in the accumulate dtype; empty where not asked for."""
    f = widened(x)
    empty = f.new_empty(0)
    return (
        f.mean((2, 3), keepdim=True) if statistics & 1 else empty,
        empty
        if weight is None or not statistics & 2
        else (f * weight.to(f.dtype)).sum(1, keepdim=True),
        f.mean(3, keepdim=True) if statistics & 4 else empty,
        f.mean(2, keepdim=True) if statistics & 8 else empty,
    )


def backward(
    dr: torch.Tensor | None,
    x: torch.Tensor,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    weight: torch.Tensor | None,
    d_mean: torch.Tensor | None,
    d_sum: torch.Tensor | None,
    d_rows: torch.Tensor | None,
    d_columns: torch.Tensor | None,
    combine: str,
    gate: str,
    skip: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """dx = dr * (skip + gate(a, b)) + d_mean / pixels + weight * d_sum + d_rows / W + d_columns /
    H,
    and d_weight (N, C, 1, 1), the sum of x * d_sum over pixels, which is empty without d_sum.
    """
    f = widened(x)
    h, w = x.shape[2:]
    dx, d_weight = torch.zeros_like(f, memory_format=torch.contiguous_format), f.new_empty(0)
    if dr is not None and a is not None:
        dx = dx + widened(dr) * factor(a, b, combine, gate, skip)
    for d_statistic, count in ((d_mean, h * w), (d_rows, w), (d_columns, h)):
        if d_statistic is not None:
            dx = dx + d_statistic / count
    if d_sum is not None and weight is not None:
        dx = dx + weight * d_sum
        d_weight = (f * d_sum).sum((2, 3), keepdim=True)
    return dx.to(x.dtype), d_weight
