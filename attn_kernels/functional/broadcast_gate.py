import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_broadcast, check_epilogue, check_feature_map, check_form
from .operands import broadcast, laid_out_as, overridable, product_dtype


@overridable
def broadcast_gate(
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    combine: str = "mul",
    gate: str = "identity",
    skip: bool = False,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """A gate by one or two factors that broadcast to x, and the end of the block it stands in.

    ``activation(x * (skip + gate(a * b)) + residual)``, with `combine="add"` ``a + b``. Neither the
    product of the factors nor the gate is ever stored.

    Args:
        x: (N, C, H, W).
        a, b: (N or 1, C or 1, H or 1, W or 1), such as one value per channel (N, C, 1, 1), pixel
            (N, 1, H, W), row (N, C, H, 1) or column (N, C, 1, W); no b: a alone.
        combine: "mul" or "add", what is done with a and b.
        gate: "identity", "sigmoid" or "hardsigmoid".
        skip: whether 1 is added to the gate, as in ``x + x * gate(a * b)``.
        residual: as x, or None.
        activation: "identity" or "relu".

    Returns:
        y as x.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype, or skip no bool.
        ValueError: a shape, a device or a name does not fit, or a forced backend cannot serve x.
    """
    check_feature_map("x", x)
    check_broadcast("a", a, x)
    if b is not None:
        check_broadcast("b", b, x)
    check_form(combine, gate, skip)
    check_epilogue(residual, activation, x)
    if backend_for("broadcast_gate", x) == "reference":
        y = reference.broadcast_gate(
            x,
            a,
            b,
            combine=combine,
            gate=gate,
            skip=skip,
            residual=residual,
            activation=activation,
        )
    else:
        dense = ops.dense(x)
        factors = broadcast(a, x), None if b is None else broadcast(b, x)
        y = autograd.broadcast_gate(dense, *factors, residual, combine, gate, skip, activation)
        y = laid_out_as(y, x, dense)
    return y.to(product_dtype(x, a, b))
