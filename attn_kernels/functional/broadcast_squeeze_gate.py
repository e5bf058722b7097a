from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import has_torch_function

from .. import autograd, ops
from ..backends import backend_for
from ..checks import (
    check_broadcast_statistics,
    check_epilogue,
    check_feature_map,
    check_form,
    check_mixed_factors,
)
from .broadcast_gate import broadcast_gate
from .broadcast_squeeze import bits, broadcast_squeeze, in_order, weight_of
from .operands import autocasts, broadcast, laid_out_as, product_dtype


def broadcast_squeeze_gate(
    x: torch.Tensor,
    mix: Callable[..., Any],
    squeeze: Sequence[str] = ("rows", "columns"),
    weight: torch.Tensor | None = None,
    *,
    combine: str = "mul",
    gate: str = "identity",
    skip: bool = False,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """A gate of x by factors that broadcast to it, made of x's own statistics.

    ``broadcast_gate(x, *mix(*broadcast_squeeze(x, squeeze, weight)), ...)``, where the gradient of
    x through the gate and through the statistics is written in one pass. Coordinate attention:

    .. code-block:: python

        def mix(rows, columns):  # (N, C, H, 1), (N, C, 1, W)
            both = torch.cat([rows, columns.transpose(2, 3)], 2)
            both = F.hardswish(bn1(conv1(both)))
            rows, columns = both.split(x.shape[2:], 2)
            return conv_h(rows).sigmoid(), conv_w(columns.transpose(2, 3)).sigmoid()


        y = ak.functional.broadcast_squeeze_gate(x, mix, ("rows", "columns"))

    The others, with `channel_gate` for layers from (N, C, 1, 1) to the same:

    .. code-block:: python

        sse = broadcast_squeeze_gate(x, torch.sigmoid, ("sum",), weight)
        scse = broadcast_squeeze_gate(
            x, lambda m, s: (channel_gate(m), s.sigmoid()), ("mean", "sum"), weight, combine="add"
        )
        bam = broadcast_squeeze_gate(
            x, lambda m: (channel_gate(m), map), ("mean",), gate="sigmoid", skip=True
        )

    To `torch.fx` this is `broadcast_squeeze`, the mix and `broadcast_gate`.

    Args:
        x: (N, C, H, W).
        mix: called with the statistics, in the order of `squeeze` and in x's dtype; returns a or
            (a, b) as `broadcast_gate` takes them, in x's dtype (under autocast in any floating
            dtype). Any differentiable PyTorch code, with parameters of its own.
        squeeze, weight: as `broadcast_squeeze` takes them.
        combine, gate, skip, residual, activation: as `broadcast_gate` takes them.

    Returns:
        y as x.

    Raises:
        TypeError: an argument or what mix returns is no tensor or of an unsupported dtype.
        ValueError: a shape, a device, a statistic or a name does not fit, or a forced backend
            cannot serve x.
    """
    options: dict[str, Any] = {
        "combine": combine,
        "gate": gate,
        "skip": skip,
        "residual": residual,
        "activation": activation,
    }
    if has_torch_function((x, residual, weight)):  # the proxies of torch.fx
        statistics = broadcast_squeeze(x, squeeze, weight)
        found = mix(*(statistics[i] for i in range(len(squeeze))))
        return broadcast_gate(x, *(found if isinstance(found, tuple) else (found,)), **options)
    check_feature_map("x", x)
    check_broadcast_statistics("squeeze", squeeze, weight, x)
    check_form(combine, gate, skip)
    check_epilogue(residual, activation, x)
    if not callable(mix):
        raise TypeError(f"mix: expected a callable, got {type(mix).__name__}")
    if backend_for("broadcast_squeeze", x) == "reference":
        factors = mixed(mix, broadcast_squeeze(x, squeeze, weight), x)
        return broadcast_gate(x, *factors, **options)
    dense, form = ops.dense(x), (combine, gate, skip)
    asked, wide = bits(squeeze), weight_of(weight, x)
    if not (x.requires_grad and torch.is_grad_enabled()):
        found = autograd.broadcast_squeeze(dense, wide, asked)
        a, b = mixed(mix, in_order(found, squeeze, x), x)
        y = autograd.broadcast_gate(dense, *wide_factors(a, b, x), residual, *form, activation)
    else:
        *found, token, c, p, r, w = autograd.broadcast_squeeze_carried(dense, wide, asked, *form)
        a, b = mixed(mix, in_order(found, squeeze, x), x)
        factors = wide_factors(a, b, x)
        carriers = carriers_for(factors, [c, p, r, w])
        operands = (dense, *factors, residual, *form, activation)
        if carriers is None:
            y = autograd.broadcast_gate(*operands)
        else:
            y = autograd.broadcast_gate_carried(*operands, token, *carriers)
    return laid_out_as(y, x, dense).to(product_dtype(x, a, b))


def mixed(mix, statistics, x) -> tuple[torch.Tensor, torch.Tensor | None]:
    """a and b, None where mix returns none."""
    found = mix(*statistics)
    factors = found if isinstance(found, tuple) else (found,)
    check_mixed_factors(factors, x, any_dtype=autocasts(x))
    return factors[0], factors[1] if len(factors) == 2 else None


def wide_factors(a, b, x) -> tuple[torch.Tensor, torch.Tensor | None]:
    return broadcast(a, x), None if b is None else broadcast(b, x)


def carriers_for(
    factors: tuple[torch.Tensor, torch.Tensor | None], carriers: list[torch.Tensor]
) -> list[torch.Tensor | None] | None:
    """One for each factor, of its shape; None if there is a factor without."""
    found: list[torch.Tensor | None] = []
    for t in factors:
        fitting = [i for i, c in enumerate(carriers) if t is not None and c.shape == t.shape]
        if t is not None and not fitting:
            return None
        found.append(carriers.pop(fitting[0]) if fitting else None)
    return found
