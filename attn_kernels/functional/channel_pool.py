import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_feature_map, check_view
from .operands import affine_view, overridable


@overridable
def channel_pool(
    x: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean and maximum over channels.

    ``torch.cat([f.mean(1, keepdim=True), f.max(1, keepdim=True).values], 1)``, ``f = scale * x +
    shift``

    Args:
        x: (N, C, H, W).
        scale, shift: (N, C) or (C,), an affine view on x; None: 1 and 0.

    Returns:
        (N, 2, H, W), the mean first. Differentiable; a maximum shared by several channels sends its
        gradient to the first of them, as ``torch.max`` does.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape or device does not fit, or a forced backend cannot serve x.
    """
    check_feature_map("x", x)
    check_view(scale, shift, x)
    if backend_for("channel_pool", x) == "reference":
        return reference.channel_pool(x, scale, shift)
    return autograd.channel_pool(ops.dense(x), *affine_view(x, scale, shift))
