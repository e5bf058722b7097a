import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_scale_gate
from .operands import laid_out_as, overridable


@overridable
def scale_gate(
    x: torch.Tensor, a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """A gate of x by another map, with an affine function per channel before the sigmoid.

    ``x * torch.sigmoid(a * scale[:, None, None] + shift[:, None, None])``

    It is how a branch that ends in batch normalisation and a sigmoid is applied: the normalisation
    is the affine function.

    Args:
        x, a: (N, C, H, W).
        scale, shift: (C,).

    Returns:
        y as x; in the wider of x's and a's dtypes, where they differ.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape or device does not fit, or a forced backend cannot serve x.
    """
    check_scale_gate(x, a, scale, shift)
    if a.dtype != x.dtype:
        dtype = torch.promote_types(x.dtype, a.dtype)
        x, a = x.to(dtype), a.to(dtype)
    if backend_for("scale_gate", x) == "reference":
        return reference.scale_gate(x, a, scale, shift)
    affine = (ops.either_parameter(p, x) for p in (scale, shift))
    dense = ops.dense(x)
    return laid_out_as(autograd.scale_gate(dense, a, *affine), x, dense)
