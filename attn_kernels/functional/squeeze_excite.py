import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_squeeze_excite
from .operands import as_eager, laid_out_as, overridable


@overridable
def squeeze_excite(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor | None,
    w2: torch.Tensor,
    b2: torch.Tensor | None,
    activation: str = "relu",
    gate: str = "sigmoid",
) -> torch.Tensor:
    """A gate of x's channels by a perceptron of their means.

    ``x * gate(w2 @ activation(w1 @ mean_hw(x) + b1) + b2)``

    Args:
        x: (N, C, H, W).
        w1, b1: (R, C, 1, 1) and (R,) or None, the first layer, as a 1x1 convolution has it.
        w2, b2: (C, R, 1, 1) and (C,) or None, the second layer.
        activation: "relu", "silu" or "identity".
        gate: "sigmoid" or "hardsigmoid".

    Returns:
        y as x.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape, a device, the activation or the gate does not fit, or a forced backend
            cannot serve x.

    Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
    """
    check_squeeze_excite(x, w1, b1, w2, b2, activation, gate)
    if backend_for("squeeze_excite", x) == "reference":
        y = reference.squeeze_excite(x, w1, b1, w2, b2, activation, gate)
    else:
        parameters = (ops.parameter(p, x) for p in (w1, b1, w2, b2))
        dense = ops.dense(x)
        y, *_ = autograd.squeeze_excite(dense, *parameters, activation, gate)
        y = laid_out_as(y, x, dense)
    return as_eager(y, x)
