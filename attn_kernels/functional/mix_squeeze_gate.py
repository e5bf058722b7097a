from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import has_torch_function

from .. import autograd
from ..backends import backend_for
from ..checks import check_epilogue, check_maps, check_parts, check_selection
from .mix import Maps, as_first, mix, mix_squeeze, operands, selection
from .operands import autocasts, product_dtype


def mix_squeeze_gate(
    x: Maps,
    select: Callable[..., Any],
    parts: int = 1,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """`mix` with factors made of the mean of the sum of all maps: what selects among branches.

    ``mix(x, select(mix_squeeze(x, parts)), ...)``, where the gradients of the maps through their
    mix and through the mean are written in one pass. To `torch.fx` it is computed so.

    Args:
        x, parts: as `mix_squeeze` takes them.
        select: called with the mean (N, C, 1, 1), in x's dtype; returns s as `mix` takes it, in x's
            dtype (under autocast in any floating dtype). Any differentiable PyTorch code, with
            parameters of its own.
        residual, activation: as `mix` takes them.

    Returns:
        y (N, C, H, W), as x.

    Raises:
        TypeError: an argument or what select returns is no tensor or of an unsupported dtype.
        ValueError: a shape, a device or the activation does not fit, or a forced backend cannot
            serve x.
    """
    given = x if isinstance(x, tuple | list) else (x,)
    if has_torch_function((*given, residual)):  # the proxies of torch.fx
        s = select(mix_squeeze(x, parts))
        return mix(x, s, residual=residual, activation=activation)
    tensors = check_maps("x", x)
    first, joined = tensors[0], isinstance(x, torch.Tensor)
    check_parts(parts, first, joined)
    expected = parts if joined else len(tensors), first.shape[1] // parts
    check_epilogue(residual, activation, first, channels=expected[1])
    if not callable(select):
        raise TypeError(f"select: expected a callable, got {type(select).__name__}")

    def selected(mean: torch.Tensor) -> torch.Tensor:
        s = select(mean.to(first.dtype).view(*mean.shape[:2], 1, 1))
        check_selection("select's s", s, first, expected, any_dtype=autocasts(first))
        return s

    if backend_for("mix", first) == "reference":
        s = selected(mix_squeeze(x, parts))
        return mix(x, s, residual=residual, activation=activation)
    found, each = operands(tensors, parts)
    if any(t.requires_grad for t in tensors) and torch.is_grad_enabled():
        mean, *ends = autograd.mix_squeeze_carried(*found, each)
        s = selected(mean)
        y = autograd.mix_carried(*found, selection(s, first), residual, activation, *ends)
    else:
        s = selected(autograd.mix_squeeze(*found, each))
        y = autograd.mix(*found, selection(s, first), residual, activation)
    return as_first(y, first, found).to(product_dtype(first, s))
