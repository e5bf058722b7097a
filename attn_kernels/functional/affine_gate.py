import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_epilogue, check_factors, check_feature_map
from .operands import coefficient, laid_out_as, overridable, product_dtype


@overridable
def affine_gate(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """A gate, or a normalisation, by a factor per channel, and the end of the block it stands in.

    ``activation(scale * x + shift + residual)``

    Args:
        x: (N, C, H, W).
        scale, shift: (N, C), (C,), or (N or 1, C, 1, 1); no shift: 0.
        residual: as x, or None.
        activation: "identity" or "relu".

    Returns:
        y as x.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape, a device or the activation does not fit, or a forced backend cannot
            serve x.
    """
    check_feature_map("x", x)
    check_factors(scale, shift, x)
    check_epilogue(residual, activation, x)
    if backend_for("affine_gate", x) == "reference":
        y = reference.affine_gate(x, scale, shift, residual=residual, activation=activation)
    else:
        factors = coefficient(scale, x), None if shift is None else coefficient(shift, x)
        dense = ops.dense(x)
        y = laid_out_as(autograd.affine_gate(dense, *factors, residual, activation), x, dense)
    return y.to(product_dtype(x, scale, shift))
