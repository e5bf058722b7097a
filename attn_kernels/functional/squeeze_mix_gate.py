"""The core of every gate by statistics of its own map: `squeeze_gate`, `CBAM` and `Tail` are it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import autograd, ops
from ..backends import backend_for
from ..reference.affine_gate import forward as affine_formula
from ..reference.spatial_gate import forward as spatial_formula
from ..reference.squeeze import STATISTICS, statistic
from .operands import affine_view, coefficient, laid_out_as, map_dtype
from .squeeze import bits

FORMULAS: dict[str, Callable[..., Any]] = {
    "affine_gate": affine_formula,
    "spatial_gate": spatial_formula,
}


class View(NamedTuple):
    """f = scale * x + shift: factors as `affine_gate` takes them, in any floating dtype, or None
    for 1 and 0; and the dtype that f has in eager mode.
    """

    scale: torch.Tensor | None
    shift: torch.Tensor | None
    dtype: torch.dtype


Statistics = dict[str, torch.Tensor]
Stencil = tuple[torch.Tensor, torch.Tensor | None]


def squeeze_mix_gate(
    x: torch.Tensor,
    squeeze: Sequence[str],
    mix: Callable[[Statistics], View],
    stencil: Stencil | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """``activation(f + residual)``, or with a stencil ``activation(f * map(f) + residual)``, where
    f is the view that mix returns; x's gradient through statistics and gate is one.

    mix receives the statistics named in `squeeze`, (N, C) in the accumulate dtype. The stencil is
    weight and bias of `spatial_gate`. All arguments are checked.
    """
    gate = "affine_gate" if stencil is None else "spatial_gate"
    squeeze_kernel = bool(squeeze) and backend_for("squeeze", x) != "reference"
    gate_kernel = backend_for(gate, x) != "reference"
    carried = squeeze_kernel and gate_kernel and x.requires_grad and torch.is_grad_enabled()
    dense = ops.dense(x) if squeeze_kernel or gate_kernel else x
    if squeeze_kernel:
        found = kernel("squeeze", carried)(dense, bits(squeeze))
        view = mix({name: found[STATISTICS.index(name)] for name in squeeze})
        ending = residual, activation, *found[6:]  # token and carrier, where there are some
    else:
        view = mix({name: statistic(x, name) for name in squeeze})
        ending = residual, activation
    gated = kernel(gate, carried) if gate_kernel else FORMULAS[gate]
    dtype = view.dtype
    if stencil is None:
        y = gated(dense, *factors(x, view.scale, view.shift), *ending)
    else:
        parameters = (ops.parameter(p, x) for p in stencil)
        y, *_ = gated(dense, *parameters, *affine_view(x, view.scale, view.shift), *ending)
        dtype = torch.promote_types(dtype, map_dtype(x))
    return laid_out_as(y, x, dense).to(dtype)


def kernel(op: str, carried: bool) -> Callable[..., Any]:
    return getattr(autograd, f"{op}_carried" if carried else op)


def factors(
    x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    return (
        x.new_ones(x.shape[:2], dtype=ops.acc_dtype(x)) if scale is None else coefficient(scale, x),
        None if shift is None else coefficient(shift, x),
    )
