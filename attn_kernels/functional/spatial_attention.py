import torch

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_spatial, check_view
from .operands import affine_view, map_dtype, overridable


@overridable
def spatial_attention(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """The attention map of spatial attention.

    ``torch.sigmoid(F.conv2d(channel_pool(f), weight, bias, padding=K // 2))``, ``f = scale * x +
    shift``

    Args:
        x: (N, C, H, W).
        weight: (1, 2, K, K), K odd and at most 15.
        bias: (1,) or None.
        scale, shift: (N, C) or (C,), an affine view on x; None: 1 and 0.

    Returns:
        (N, 1, H, W).

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape or device does not fit, or a forced backend cannot serve x.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3.2.
    """
    check_spatial(x, weight, bias)
    check_view(scale, shift, x)
    if backend_for("spatial_attention", x) == "reference":
        map = reference.spatial_attention(x, weight, bias, scale=scale, shift=shift)
    else:
        map, _ = autograd.spatial_attention(
            ops.dense(x),
            ops.parameter(weight, x),
            ops.parameter(bias, x),
            *affine_view(x, scale, shift),
        )
    return map.to(map_dtype(x))
