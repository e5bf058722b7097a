import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_gam
from .operands import as_eager, laid_out_as, overridable


@overridable
def gam_channel_gate(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    activation: str = "identity",
) -> torch.Tensor:
    """GAM's channel gate: an MLP over the channels of every pixel, applied to x.

    ``x * activation(w2 @ relu(w1 @ x[n, :, h, w] + b1) + b2)``

    Hidden units are rounded to x's dtype. On the CPU the matrix products are PyTorch's own: their
    last bits may change with the number of threads, and where the processor has instructions for
    products of bfloat16, weights are rounded to it for maps of that dtype.

    Args:
        x: (N, C, H, W).
        w1, b1: (R, C) and (R,), the first layer.
        w2, b2: (C, R) and (C,), the second layer.
        activation: "identity", as the published code has it, or "sigmoid".

    Returns:
        y as x.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape, a device or the activation does not fit, or a forced backend cannot
            serve x.

    Liu et al., Global Attention Mechanism, 2021, section 3.
    """
    check_gam(x, w1, b1, w2, b2, activation)
    if backend_for("gam_channel_gate", x) == "reference":
        y = reference.gam_channel_gate(x, w1, b1, w2, b2, activation)
    else:
        parameters = (ops.either_parameter(p, x) for p in (w1, b1, w2, b2))
        dense = ops.dense(x)
        y, _ = autograd.gam_channel_gate(dense, *parameters, activation)
        y = laid_out_as(y, x, dense)
    return as_eager(y, x)
