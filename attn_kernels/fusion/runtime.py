"""What rewritten forwards call: our functions, given the layers whose work they do.

Every layer is asked at every call whether it is still plain; one that is not is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import has_torch_function

from .. import functional
from ..functional.operands import product_dtype
from ..functional.squeeze_gate import Mix
from ..functional.squeeze_mix_gate import Statistics, View, squeeze_mix_gate
from ..nn.batch_norm import batch_norm_affine, norm_obstacle
from ..nn.children import obstacle, parameter
from ..nn.gam import called_channel_gate
from ..nn.spatial_attention import conv_obstacle

Stencil = tuple[torch.Tensor, torch.Tensor | None]


def spatial_gate(x: torch.Tensor, conv: Any, norm: Any, max_first: bool) -> torch.Tensor:
    """``x * sigmoid(norm(conv(pooled)))``; pooled is [max, mean] where max_first is said."""
    weights = stencil(x, conv, norm, max_first)
    if weights is not None:
        return functional.spatial_gate(x, *weights)
    pooled = functional.channel_pool(x)
    a = conv(pooled.flip(1) if max_first else pooled)
    return x * torch.sigmoid(a if norm is None else norm(a))


def cbam(
    x: torch.Tensor, mix: Mix, statistics: Sequence[str], conv: Any, norm: Any, max_first: bool
) -> torch.Tensor:
    """``spatial_gate(squeeze_gate(x))``; the map between them is stored only where it must be."""
    weights = stencil(x, conv, norm, max_first)
    if weights is None:
        between = functional.squeeze_gate(x, mix, statistics)
        return spatial_gate(between, conv, norm, max_first)
    if has_torch_function((x,)):  # the proxies of torch.fx
        scale = mix(*functional.squeeze(x, statistics)).flatten(1).expand(x.shape[:2])
        return functional.spatial_gate(x, *weights, scale=scale)

    def view(found: Statistics) -> View:
        scale = mix(*(found[name].to(x.dtype)[..., None, None] for name in statistics))
        return View(scale, None, product_dtype(x, scale))

    return squeeze_mix_gate(x, statistics, view, weights)


def stencil(x: torch.Tensor, conv: Any, norm: Any, max_first: bool) -> Stencil | None:
    """Weight and bias of the one convolution that both layers are, or None where one must be
    called: a batch norm in training, hooks, another class.
    """
    if conv_obstacle(conv) is not None:
        return None
    weight, bias = parameter(conv, "weight"), parameter(conv, "bias")
    if norm is not None:
        # A subclass was found to be a plain one in eval mode, when the gate was found.
        if norm.training or norm.running_mean is None or obstacle(norm, type(norm)) is not None:
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
