from typing import Literal, overload

import torch

from .. import autograd, ops
from ..backends import backend_for
from ..checks import check_epilogue, check_spatial, check_view
from ..reference.spatial_gate import forward
from .operands import affine_view, as_eager, laid_out_as, map_dtype, overridable


@overload
def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
    return_map: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
    return_map: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


@overridable
def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
    return_map: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Spatial attention applied to x, and the end of the block that it stands in.

    ``activation(f * torch.sigmoid(F.conv2d(channel_pool(f), weight, bias, padding=K // 2)) +
    residual)``, ``f = scale * x + shift``

    Args:
        x: (N, C, H, W).
        weight: (1, 2, K, K), K odd and at most 15.
        bias: (1,) or None.
        scale, shift: (N, C) or (C,), an affine view on x, such as a batch normalisation or a
            channel gate; None: 1 and 0. It is never stored.
        residual: as x, or None.
        activation: "identity" or "relu".
        return_map: also return the (N, 1, H, W) map, for looking at: no gradient flows through it.

    Returns:
        y as x, or (y, map).

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape, a device or the activation does not fit, or a forced backend cannot
            serve x.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3.2.
    """
    check_spatial(x, weight, bias)
    check_view(scale, shift, x)
    check_epilogue(residual, activation, x)
    if backend_for("spatial_gate", x) == "reference":
        y, map, _ = forward(x, weight, bias, scale, shift, residual, activation)
    else:
        dense = ops.dense(x)
        y, map, _ = autograd.spatial_gate(
            dense,
            ops.parameter(weight, x),
            ops.parameter(bias, x),
            *affine_view(x, scale, shift),
            residual,
            activation,
        )
        y = laid_out_as(y, x, dense)
    y = as_eager(y, x)
    return (y, map.detach().to(map_dtype(x))) if return_map else y
