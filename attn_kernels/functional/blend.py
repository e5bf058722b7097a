import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_blend
from .operands import coefficient, laid_out_as, overridable


@overridable
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
    """Two maps, weighed against each other by a third: the fusion of two branches by attention.

    ``factor * (x * w + y * (1 - w))``, ``w = sigmoid(a * scale + shift + g)``

    a is a branch before the batch normalisation that it ends in, which is scale and shift; g is a
    second, global one. Neither w nor what the sigmoid gets is ever stored.

    Args:
        x, y, a: (N, C, H, W).
        scale, shift: (N, C), (C,), or (N or 1, C, 1, 1).
        g: the same, or None.
        factor: a number.

    Returns:
        z as x; in the widest of x's, y's and a's dtypes, where they differ.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype, or factor no number.
        ValueError: a shape or device does not fit, or a forced backend cannot serve x.
    """
    check_blend(x, y, a, scale, shift, g, factor)
    if not x.dtype == y.dtype == a.dtype:
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), a.dtype)
        x, y, a = (t.to(dtype) for t in (x, y, a))
    if backend_for("blend", x) == "reference":
        return reference.blend(x, y, a, scale, shift, g, factor=factor)
    offset = coefficient(shift, x)
    if g is not None:
        offset = offset + coefficient(g, x)
    dense = ops.dense(x)
    z = autograd.blend(dense, y, a, coefficient(scale, x), offset, float(factor))
    return laid_out_as(z, x, dense)
