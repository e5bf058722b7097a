"""Public functions: each checks its arguments, honours autocast and calls the backend that serves.

All of them take x as (N, C, H, W) in float32, float16, bfloat16 or float64, in any strides
(contiguous and channels_last are native, others are copied once), and return results in x's dtype
and memory format. Parameters may have another floating dtype than x: they are used in float32
(float64 for float64 maps) unless said otherwise. Under autocast results have the dtype that the
eager module would give.
"""

from __future__ import annotations

from typing import Literal, overload

import torch

from . import autograd, ops, reference
from .backends import backend_for
from .checks import check_feature_map, check_gam, check_scale_gate, check_spatial

__all__ = [
    "channel_pool",
    "gam_channel_gate",
    "scale_gate",
    "spatial_attention",
    "spatial_gate",
]


def channel_pool(x: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over channels.

    ``torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)``

    Args:
        x: (N, C, H, W).

    Returns:
        (N, 2, H, W), the mean first. Differentiable; a maximum shared by several channels sends its
        gradient to the first of them, as ``torch.max`` does.

    Raises:
        TypeError: x is no tensor or of an unsupported dtype.
        ValueError: x has another rank than 4, or a forced backend cannot serve it.
    """
    check_feature_map("x", x)
    if backend_for("channel_pool", x) == "reference":
        return reference.channel_pool(x)
    return _apply(autograd.ChannelPool, autograd.ChannelPool.forward, ops.dense(x))


def spatial_attention(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The attention map of spatial attention.

    ``torch.sigmoid(F.conv2d(channel_pool(x), weight, bias, padding=K // 2))``

    Args:
        x: (N, C, H, W).
        weight: (1, 2, K, K), K odd and at most 15.
        bias: (1,) or None.

    Returns:
        (N, 1, H, W).

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape or device does not fit, or a forced backend cannot serve x.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3.2.
    """
    check_spatial(x, weight, bias)
    if backend_for("spatial_attention", x) == "reference":
        map = reference.spatial_attention(x, weight, bias)
    else:
        map, _ = _apply(
            autograd.SpatialAttention,
            autograd.SpatialAttention.forward,
            *_prepared(x, weight, bias),
        )
    return map.to(_map_dtype(x))


@overload
def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    return_map: Literal[False] = False,
) -> torch.Tensor: ...


@overload
def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    return_map: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...


def spatial_gate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    return_map: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Spatial attention applied to x.

    ``x * torch.sigmoid(F.conv2d(channel_pool(x), weight, bias, padding=K // 2))``

    Args:
        x: (N, C, H, W).
        weight: (1, 2, K, K), K odd and at most 15.
        bias: (1,) or None.
        return_map: also return the (N, 1, H, W) map, for looking at: no gradient flows through it.

    Returns:
        y as x, or (y, map).

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype.
        ValueError: a shape or device does not fit, or a forced backend cannot serve x.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3.2.
    """
    check_spatial(x, weight, bias)
    map_dtype = _map_dtype(x)
    if backend_for("spatial_gate", x) == "reference":
        y, map = reference.spatial_gate(x, weight, bias, return_map=True)
    else:
        y, map, _ = _apply(
            autograd.SpatialGate, autograd.SpatialGate.forward, *_prepared(x, weight, bias)
        )
    if map_dtype != x.dtype:
        y = y.to(torch.promote_types(x.dtype, map_dtype))
    return (y, map.to(map_dtype)) if return_map else y


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

    On the CPU the matrix products are PyTorch's own: their last bits may change with the number of
    threads, and where the processor has instructions for products of bfloat16, weights are rounded
    to it for maps of that dtype.

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
        mlp = (ops.either_parameter(p, x) for p in (w1, b1, w2, b2))
        y, _ = _apply(autograd.GamChannelGate, ops.gam_channel_gate, ops.dense(x), *mlp, activation)
    map_dtype = _map_dtype(x)
    return y if map_dtype == x.dtype else y.to(torch.promote_types(x.dtype, map_dtype))


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
    return _apply(autograd.ScaleGate, ops.scale_gate, ops.dense(x), a, *affine)


def _prepared(x: torch.Tensor, *parameters: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """What the ops take: x in a native format, parameters contiguous in the accumulate dtype."""
    return ops.dense(x), *(ops.parameter(p, x) for p in parameters)


def _apply(function, op, *tensors):
    """The autograd Function where somebody wants a gradient, else its forward op alone."""
    if torch.is_grad_enabled() and any(_requires_grad(t) for t in tensors):
        return function.run(*tensors)
    return op(*tensors)


def _requires_grad(t: object) -> bool:
    return isinstance(t, torch.Tensor) and t.requires_grad


def _map_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of the eager module's map: autocast narrows its convolution, but never float64."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
