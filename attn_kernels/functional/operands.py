"""What public functions share on the way from a user's arguments to an op's operands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch.overrides import handle_torch_function, has_torch_function

from .. import ops
from ..reference.affine_gate import per_channel

F = TypeVar("F", bound=Callable[..., object])


def overridable(function: F) -> F:
    """What torch's own functions do first: leave the call to an argument, or a mode, that has a
    `__torch_function__` for it, as the proxies of `torch.fx` have.
    """

    @functools.wraps(function)
    def public(*args, **kwargs):
        arguments = (*args, *kwargs.values()) if kwargs else args
        if has_torch_function(arguments):
            return handle_torch_function(public, arguments, *args, **kwargs)
        return function(*args, **kwargs)

    return cast(F, public)


def affine_view(
    x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """scale and shift as the ops take them: both or neither, (N, C), in the accumulate dtype."""
    if scale is None and shift is None:
        return None, None
    size, acc = x.shape[:2], ops.acc_dtype(x)
    return (
        x.new_ones(size, dtype=acc) if scale is None else coefficient(scale, x),
        x.new_zeros(size, dtype=acc) if shift is None else coefficient(shift, x),
    )


def coefficient(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(C,), (N, C) or (N or 1, C, 1, 1) as the ops take it: (N, C), in the accumulate dtype."""
    t, size = per_channel(t).to(ops.acc_dtype(x)), x.shape[:2]
    return (t if t.shape == size else t.expand(size)).contiguous()


def laid_out_as(y: torch.Tensor, x: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """y, which has the strides of `dense`, in those that eager gives a map made from x."""
    if dense is x:
        return y
    as_eager = torch.empty_like(x, dtype=y.dtype)
    return y if as_eager.stride() == y.stride() else as_eager.copy_(y)


def map_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of the eager module's map: autocast narrows its convolution, but never float64."""
    if x.dtype == torch.float64 or not autocasts(x):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def autocasts(x: torch.Tensor) -> bool:
    if not torch._C._is_any_autocast_enabled():  # the usual case, in one look
        return False
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def product_dtype(x: torch.Tensor, *factors: torch.Tensor | None) -> torch.dtype:
    """x's dtype; under autocast that of the eager product of x and such factors."""
    dtype = x.dtype
    if autocasts(x):
        for t in factors:
            dtype = dtype if t is None else torch.promote_types(dtype, t.dtype)
    return dtype


def as_eager(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y in the dtype of the eager product of x and its map."""
    dtype = map_dtype(x)
    return y if dtype == x.dtype else y.to(torch.promote_types(x.dtype, dtype))
