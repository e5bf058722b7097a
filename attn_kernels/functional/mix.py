from collections.abc import Sequence

import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_epilogue, check_maps, check_parts, check_selection
from .operands import laid_out_as, overridable, product_dtype

Maps = torch.Tensor | Sequence[torch.Tensor]


@overridable
def mix(
    x: Maps,
    s: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """A sum of M maps, each with a factor per channel, and the end of the block it stands in.

    ``activation(s[:, 0] * x[0] + s[:, 1] * x[1] + ... + residual)``. Maps are not stacked; slices
    of the channels of one are read where they are. (Of more than four tensors they are joined.)

    Args:
        x: M maps (N, C, H, W), or one (N, M * C, H, W), whose channels are those of M maps, one map
            after the other.
        s: (N or 1, M, C) or (N or 1, M, C, 1, 1).
        residual: as the sum, or None.
        activation: "identity" or "relu".

    Returns:
        y (N, C, H, W), as x.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape, a device or the activation does not fit, or a forced backend cannot
            serve x.
    """
    tensors = check_maps("x", x)
    first, joined = tensors[0], isinstance(x, torch.Tensor)
    check_selection("s", s, first, None if joined else (len(tensors), first.shape[1]))
    check_epilogue(residual, activation, first, channels=s.shape[2])
    if backend_for("mix", first) == "reference":
        y = reference.mix(x, s, residual=residual, activation=activation)
    else:
        found, _ = operands(tensors)
        y = autograd.mix(*found, selection(s, first), residual, activation)
        y = as_first(y, first, found)
    return y.to(product_dtype(first, s))


@overridable
def mix_squeeze(x: Maps, parts: int = 1) -> torch.Tensor:
    """The mean over pixels of the sum of M maps, in one read of them.

    Args:
        x: M maps (N, C, H, W), or one (N, M * C, H, W), whose channels are those of M maps.
        parts: M of one map.

    Returns:
        (N, C, 1, 1) in x's dtype. Differentiable.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype, or parts no int.
        ValueError: a shape or a device does not fit, parts is no divisor of the channels, or a
            forced backend cannot serve x.
    """
    tensors = check_maps("x", x)
    check_parts(parts, tensors[0], isinstance(x, torch.Tensor))
    if backend_for("mix_squeeze", tensors[0]) == "reference":
        return reference.mix_squeeze(x, parts)
    found, parts = operands(tensors, parts)
    return autograd.mix_squeeze(*found, parts).to(tensors[0].dtype)[:, :, None, None]


MOST = 4  # tensors that the ops take
Operands = tuple[torch.Tensor | None, ...]


def operands(tensors: Sequence[torch.Tensor], parts: int = 1) -> tuple[Operands, int]:
    """As the ops take them: four, of which some are None; and how many maps each of them is."""
    if len(tensors) > MOST:
        tensors, parts = [torch.cat(list(tensors), 1)], len(tensors)
    return (*(ops.dense_planes(t) for t in tensors), *(None,) * (MOST - len(tensors))), parts


def selection(s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """s as the op takes it: (N, M, C), in the accumulate dtype."""
    s = s.flatten(2).to(ops.acc_dtype(x))
    return s.expand(x.shape[0], -1, -1).contiguous()


def as_first(y: torch.Tensor, x: torch.Tensor, found: Operands) -> torch.Tensor:
    """y in the strides that eager gives a map made from x, the first of the maps found."""
    if found[0] is None or y.shape != x.shape:
        return y
    return laid_out_as(y, x, found[0])
