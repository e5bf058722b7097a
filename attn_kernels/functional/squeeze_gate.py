from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import has_torch_function

from .. import autograd, ops
from ..backends import backend_for
from ..checks import check_epilogue, check_feature_map, check_mixed, check_statistics
from .affine_gate import affine_gate
from .operands import autocasts, coefficient, laid_out_as, product_dtype
from .squeeze import bits, in_order
from .squeeze import squeeze as squeezed

Mix = Callable[..., Any]


def squeeze_gate(
    x: torch.Tensor,
    mix: Mix,
    squeeze: Sequence[str] = ("mean",),
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """A gate of x by its own statistics, and the end of the block it stands in.

    ``activation(scale * x + shift + residual)``, ``scale, shift = mix(*squeeze(x, ...))``

    The gradient of x through the gate and through the statistics is written in one pass: there is
    no second map to add. To `torch.fx` this is `squeeze`, the mix and `affine_gate`; on CUDA, where
    plain PyTorch serves because there is no kernel yet, in forward mode, and after an export for
    which x required no gradient, it is computed so, too.

    Gates per pixel, row or column are `broadcast_squeeze_gate`'s; those of every element by a
    polynomial of itself are `self_squeeze_gate`'s.

    Args:
        x: (N, C, H, W).
        mix: called with the statistics, each (N, C, 1, 1) in x's dtype, in the order of `squeeze`;
            returns scale or (scale, shift), each (N or 1, C, 1, 1) in x's dtype (under autocast in
            any floating dtype). Any differentiable PyTorch code, with parameters of its own.
        squeeze: some of "mean", "var" (biased), "max" and "min".
        residual: as x, or None.
        activation: "identity" or "relu".

    Returns:
        y as x.

    Raises:
        TypeError: an argument or what mix returns is no tensor or of an unsupported dtype.
        ValueError: a shape, a device, a statistic or the activation does not fit, or a forced
            backend cannot serve x.
    """
    if has_torch_function((x, residual)):  # the proxies of torch.fx
        statistics = squeezed(x, squeeze)
        found = mix(*(statistics[i] for i in range(len(squeeze))))
        factors = found if isinstance(found, tuple) else (found,)
        return affine_gate(x, *factors, residual=residual, activation=activation)
    check_feature_map("x", x)
    check_statistics("squeeze", squeeze)
    check_epilogue(residual, activation, x)
    if not callable(mix):
        raise TypeError(f"mix: expected a callable, got {type(mix).__name__}")
    if backend_for("squeeze", x) == "reference":
        scale, shift = mixed(mix, squeezed(x, squeeze), x)
        return affine_gate(x, scale, shift, residual=residual, activation=activation)
    carried = x.requires_grad and torch.is_grad_enabled()
    squeeze_op = autograd.squeeze_carried if carried else autograd.squeeze
    gate_op = autograd.affine_gate_carried if carried else autograd.affine_gate
    dense = ops.dense(x)
    found = squeeze_op(dense, bits(squeeze))
    scale, shift = mixed(mix, in_order(found, squeeze, x), x)
    factors = coefficient(scale, x), None if shift is None else coefficient(shift, x)
    y = gate_op(dense, *factors, residual, activation, *found[6:])  # token, carrier, or nothing
    return laid_out_as(y, x, dense).to(product_dtype(x, scale, shift))


def mixed(
    mix: Mix, statistics: tuple[torch.Tensor, ...], x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """scale and shift, None where mix returns none."""
    found = mix(*statistics)
    factors = found if isinstance(found, tuple) else (found,)
    check_mixed(factors, x, any_dtype=autocasts(x))
    return factors[0], factors[1] if len(factors) == 2 else None
