from collections.abc import Sequence

import torch

from .. import autograd, ops, reference
from ..autograd.squeeze import MEAN, VAR
from ..backends import backend_for
from ..checks import check_feature_map, check_statistics
from ..reference.squeeze import STATISTICS
from .operands import overridable


@overridable
def squeeze(x: torch.Tensor, statistics: Sequence[str] = ("mean",)) -> tuple[torch.Tensor, ...]:
    """Statistics of every channel over its pixels, all of them in one read of x.

    Args:
        x: (N, C, H, W).
        statistics: some of "mean", "var" (biased), "max" and "min".

    Returns:
        As many (N, C, 1, 1), in that order and in x's dtype. Differentiable; a maximum or minimum
        shared by several pixels sends its gradient to the first of them.

    Raises:
        TypeError: x is no tensor or of an unsupported dtype, or statistics no sequence of names.
        ValueError: a shape or statistic does not fit, or a forced backend cannot serve x.
    """
    check_feature_map("x", x)
    check_statistics("statistics", statistics)
    if backend_for("squeeze", x) == "reference":
        return reference.squeeze(x, statistics)
    found = autograd.squeeze(ops.dense(x), bits(statistics))
    of_names = (found[STATISTICS.index(name)] for name in statistics)
    return tuple(t.to(x.dtype).view(*t.shape, 1, 1) for t in of_names)


def bits(statistics: Sequence[str]) -> int:
    """The op's argument; the backward of a variance reads the mean."""
    asked = sum(1 << STATISTICS.index(name) for name in statistics)
    return asked | MEAN if asked & VAR else asked
