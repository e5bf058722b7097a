from collections.abc import Sequence

import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_broadcast_statistics, check_feature_map
from ..reference.broadcast_squeeze import STATISTICS
from .operands import coefficient, overridable


@overridable
def broadcast_squeeze(
    x: torch.Tensor,
    statistics: Sequence[str] = ("rows", "columns"),
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Statistics that broadcast to x, all of them in one read of x.

    Args:
        x: (N, C, H, W).
        statistics: some of "mean" over all pixels, (N, C, 1, 1); "rows", the mean of each,
            (N, C, H, 1); "columns", (N, C, 1, W); and "sum", over channels with a weight,
            (N, 1, H, W): a 1x1 convolution to one channel.
        weight: (C,), (N, C) or (N or 1, C, 1, 1), with "sum" and not without.

    Returns:
        As many, in that order and in x's dtype. Differentiable.

    Raises:
        TypeError: x or weight is no tensor or of an unsupported dtype, or statistics no sequence
            of names.
        ValueError: a shape or statistic does not fit, or a forced backend cannot serve x.
    """
    check_feature_map("x", x)
    check_broadcast_statistics("statistics", statistics, weight, x)
    if backend_for("broadcast_squeeze", x) == "reference":
        return reference.broadcast_squeeze(x, statistics, weight)
    found = autograd.broadcast_squeeze(ops.dense(x), weight_of(weight, x), bits(statistics))
    return in_order(found, statistics, x)


def weight_of(weight: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """As the op takes it, (N, C, 1, 1)."""
    return None if weight is None else coefficient(weight, x)[..., None, None]


def bits(statistics: Sequence[str]) -> int:
    """The op's argument."""
    return sum(1 << STATISTICS.index(name) for name in statistics)


def in_order(
    found: Sequence[torch.Tensor], statistics: Sequence[str], x: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What the op found, as the public functions return it."""
    return tuple(found[STATISTICS.index(name)].to(x.dtype) for name in statistics)
