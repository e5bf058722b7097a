"""What rewritten forwards call: our functions, given the layers whose work they do.

Every layer is asked at every call whether it is still plain; one that is not is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import functional
from ..functional.squeeze_gate import Mix
from ..functional.squeeze_mix_gate import Stencil
from ..nn.batch_norm import batch_norm_affine, norm_obstacle
from ..nn.children import is_traced, obstacle, parameter
from ..nn.ending import ended
from ..nn.gam import called_channel_gate
from ..nn.spatial_attention import conv_obstacle
from ..nn.tail import Parts
from ..nn.tail import tail as fused_tail

Squeeze = tuple[Mix, Sequence[str]]
Layers = tuple[Any, Any, bool]  # of a spatial gate: convolution, norm or None, the order of pools


def spatial_gate(x: torch.Tensor, conv: Any, norm: Any, max_first: bool) -> torch.Tensor:
    """``x * sigmoid(norm(conv(pooled)))``; pooled is [max, mean] where max_first is said."""
    weights = stencil(x, conv, norm, max_first)
    if weights is not None:
        return functional.spatial_gate(x, *weights)
    pooled = functional.channel_pool(x)
    a = conv(pooled.flip(1) if max_first else pooled)
    return x * torch.sigmoid(a if norm is None else norm(a))


def tail(
    z: torch.Tensor,
    norm: Any = None,
    squeeze: Squeeze | None = None,
    spatial: Layers | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
    in_place: bool = False,
) -> torch.Tensor:
    """``activation(spatial(squeeze(norm(z))) + residual)``; what lies between is stored only where
    it must be. `in_place`: the addition keeps the dtype of what it adds to.
    """
    weights = None if spatial is None else stencil(z, *spatial)
    nothing = squeeze is None and weights is None and residual is None
    if spatial is not None and weights is None:
        y = spatial_gate(tail(z, norm, squeeze), *spatial)
    elif nothing or is_traced(z, residual) or plain_norm_obstacle(norm) is not None:
        y = z if norm is None else norm(z)
        y = y if squeeze is None else functional.squeeze_gate(y, *squeeze)
        y = y if weights is None else functional.spatial_gate(y, *weights)
    elif residual is not None and not matches(residual, z):
        y = tail(z, norm, squeeze, spatial)
    else:
        parts = Parts(stencil=weights)
        if squeeze is not None:
            mix, statistics = squeeze
            parts = Parts(tuple(statistics), lambda found, *_: mix(*found), weights)
        return fused_tail(z, norm, parts, residual, activation)
    return at_the_end(y, residual, activation, in_place)


def broadcast_gate(
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor | None,
    combine: str,
    gate: str,
    skip: bool,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
    in_place: bool = False,
) -> torch.Tensor:
    """``activation(x * (skip + gate(a * b)) + residual)``."""
    form: Any = {"combine": combine, "gate": gate, "skip": skip}
    if residual is not None and not is_traced(x, residual) and matches(residual, x):
        return functional.broadcast_gate(x, a, b, residual=residual, activation=activation, **form)
    return at_the_end(functional.broadcast_gate(x, a, b, **form), residual, activation, in_place)


def broadcast_squeeze_gate(
    x: torch.Tensor,
    mix: Mix,
    statistics: Sequence[str],
    weight: torch.Tensor | None,
    combine: str,
    gate: str,
    skip: bool,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
    in_place: bool = False,
) -> torch.Tensor:
    """The same with factors that mix makes of statistics."""
    form: Any = {"combine": combine, "gate": gate, "skip": skip}
    operands = x, mix, statistics, weight
    if residual is not None and not is_traced(x, residual) and matches(residual, x):
        return functional.broadcast_squeeze_gate(
            *operands, residual=residual, activation=activation, **form
        )
    y = functional.broadcast_squeeze_gate(*operands, **form)
    return at_the_end(y, residual, activation, in_place)


def self_gate(
    x: torch.Tensor, parts: Sequence[tuple[Any, ...]], folds: int = 1, groups: int = 1
) -> torch.Tensor:
    """``x * sigmoid(logit)``, and a shuffle of channels. Channels are in `folds` times as many
    groups as there are parts, which have a logit each: what `polynomial` takes.
    """

    def mix(mean, var):
        pixels = x.shape[2] * x.shape[3]
        grouped = (-1, len(parts), x.shape[1] // (folds * len(parts)), 1, 1)
        moments = mean.reshape(grouped), var.reshape(grouped)
        found = [
            polynomial(pixels, *(t[:, i] for t in moments), *part) for i, part in enumerate(parts)
        ]
        together = (torch.stack(p, 1).reshape(mean.shape) for p in zip(*found, strict=True))
        return (*together, mean)

    return functional.self_squeeze_gate(x, mix, groups=groups)


def polynomial(
    pixels: Any,
    mean: torch.Tensor,
    var: torch.Tensor,
    logit: Mix,
    kind: str,
    names: Sequence[str],
    eps: float = 0.0,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Coefficients of a logit by the deviation from the mean, d: of 1, d and d squared. The logit
    is affine in d, in its square, or in d normalised, which `kind` says.
    """
    scales = {"unbiased": pixels / (pixels - 1) if "unbiased" in names else 1, "squares": pixels}
    statistics = [mean if name == "mean" else var * scales.get(name, 1) for name in names]
    zero = torch.zeros_like(mean)
    at_zero = logit(zero, *statistics) + zero
    if kind == "constant":
        return at_zero, zero, zero
    # A step as large as the element's own values keeps the digits of the difference.
    size = {"square": var, "deviation": var.sqrt(), "norm": torch.ones_like(var)}[kind].detach()
    step = torch.where(size > 0, size, 1)
    slope = (logit(step, *statistics) - at_zero) / step
    if kind == "square":
        return at_zero, zero, slope
    if kind == "deviation":
        return at_zero, slope, zero
    if bias is not None:
        at_zero = at_zero + slope * bias[:, None, None]
    slope = slope * torch.rsqrt(var + eps)
    return at_zero, slope if weight is None else slope * weight[:, None, None], zero


def blend(
    x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, norm: Any, g: torch.Tensor, factor: int
) -> torch.Tensor:
    """``factor * (x * w + y * (1 - w))``, ``w = sigmoid(norm(a) + g)``."""
    if norm is None or is_traced(x, y, a) or plain_norm_obstacle(norm) is not None:
        a = a if norm is None else norm(a)
        scale, shift = torch.ones_like(g[:1]), torch.zeros_like(g[:1])
    else:
        scale, shift = batch_norm_affine(norm, a)
    return functional.blend(x, y, a, scale, shift, g, factor=factor)


def with_bias(total: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A weighted sum over channels as the convolution that it is, (N, 1, H, W)."""
    return total + bias.to(total.dtype)


def at_the_end(
    y: torch.Tensor, residual: torch.Tensor | None, activation: str, in_place: bool
) -> torch.Tensor:
    """The end of a block; an addition in place keeps y's dtype."""
    end = ended(y, residual, activation)
    return end.to(y.dtype) if in_place else end


def matches(residual: torch.Tensor, z: torch.Tensor) -> bool:
    return (residual.shape, residual.dtype, residual.device) == (z.shape, z.dtype, z.device)


def plain_norm_obstacle(norm: Any) -> str | None:
    """What keeps this child from being a batch norm. A subclass was found to be a plain one when
    the gate or tail was, as long as it has no children that do more.
    """
    if norm is None:
        return None
    if not only_identities(norm):
        return "has children"
    return norm_obstacle(norm, type(norm))


def only_identities(norm: nn.Module) -> bool:
    return all(type(child) is nn.Identity for child in norm.children())


def stencil(x: torch.Tensor, conv: Any, norm: Any, max_first: bool) -> Stencil | None:
    """Weight and bias of the one convolution that both layers are, or None where one must be
    called: a batch norm in training, hooks, another class.
    """
    if conv_obstacle(conv) is not None:
        return None
    weight, bias = parameter(conv, "weight"), parameter(conv, "bias")
    if norm is not None:
        if norm.training or norm.running_mean is None or plain_norm_obstacle(norm) is not None:
            return None
        scale, shift = batch_norm_affine(norm, x)
        weight = weight * scale
        bias = shift if bias is None else bias * scale + shift
    return weight.flip(1) if max_first else weight, bias


def gam_channel_gate(x: torch.Tensor, first: Any, second: Any, activation: str) -> torch.Tensor:
    """``x * activation(second(relu(first(x))))`` per pixel."""
    plain = all(obstacle(layer, nn.Linear) is None for layer in (first, second))
    if not plain:
        return called_channel_gate(x, lambda t: second(torch.relu(first(t))), activation)
    w1, b1, w2, b2 = (
        parameter(layer, name) for layer in (first, second) for name in ("weight", "bias")
    )
    return functional.gam_channel_gate(x, w1, b1, w2, b2, activation)


def norm_gate(x: torch.Tensor, a: torch.Tensor, norm: Any) -> torch.Tensor:
    """``x * sigmoid(norm(a))``."""
    if norm_obstacle(norm) is not None:
        return x * torch.sigmoid(norm(a))
    return functional.scale_gate(x, a, *batch_norm_affine(norm, a))
