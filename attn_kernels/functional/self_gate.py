from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import has_torch_function

from .. import autograd, ops, reference
from ..backends import backend_for
from ..checks import check_coefficients, check_feature_map, check_groups, check_moments
from .operands import coefficient, laid_out_as, overridable, product_dtype
from .squeeze import bits
from .squeeze import squeeze as squeezed


@overridable
def self_gate(
    x: torch.Tensor,
    p0: torch.Tensor,
    p1: torch.Tensor | None = None,
    p2: torch.Tensor | None = None,
    *,
    center: torch.Tensor | None = None,
    groups: int = 1,
) -> torch.Tensor:
    """A gate of every element of x by a polynomial of itself, and a shuffle of channels behind it.

    ``F.channel_shuffle(x * torch.sigmoid(p2 * d**2 + p1 * d + p0), groups)``, ``d = x - center``.
    The shuffle is where results are stored, no copy.

    Args:
        x: (N, C, H, W).
        p0, p1, p2, center: (N, C), (C,), or (N or 1, C, 1, 1); None: 0.
        groups: in how many groups channels are shuffled, a divisor of C; 1: as they are.

    Returns:
        y as x.

    Raises:
        TypeError: an argument is no tensor or of an unsupported dtype, or groups no int.
        ValueError: a shape or a device does not fit, groups is no divisor of C, or a forced backend
            cannot serve x.
    """
    check_feature_map("x", x)
    check_coefficients({"p0": p0, "p1": p1, "p2": p2, "center": center}, x)
    check_groups(groups, x)
    if backend_for("self_gate", x) == "reference":
        y = reference.self_gate(x, p0, p1, p2, center=center, groups=groups)
    else:
        dense = ops.dense(x)
        y = autograd.self_gate(dense, *wide_coefficients((center, p2, p1, p0), x), groups)
        y = laid_out_as(y, x, dense)
    return y.to(product_dtype(x, p0, p1, p2, center))


def self_squeeze_gate(
    x: torch.Tensor,
    mix: Callable[..., Any],
    squeeze: Sequence[str] = ("mean", "var"),
    *,
    groups: int = 1,
) -> torch.Tensor:
    """`self_gate` with coefficients made of x's own statistics.

    The gradient of x through the gate and through the statistics is written in one pass. To
    `torch.fx` this is `squeeze`, the mix and `self_gate`.

    Args:
        x: (N, C, H, W).
        mix: called with the statistics, each (N, C, 1, 1) in the accumulate dtype (float32, float64
            for float64 maps), in the order of `squeeze`; returns (p0, p1, p2, center) as
            `self_gate` takes them, p1, p2 and center perhaps None.
        squeeze: "mean", "var" (biased), or both.
        groups: as `self_gate` takes it.

    Returns:
        y as x.

    Raises:
        TypeError: an argument or what mix returns is no tensor or of an unsupported dtype.
        ValueError: a shape, a device or a statistic does not fit, groups is no divisor of C, or a
            forced backend cannot serve x.
    """
    if has_torch_function((x,)):  # the proxies of torch.fx
        found = squeezed(x, squeeze)
        p0, p1, p2, center = mix(*(found[i] for i in range(len(squeeze))))
        return self_gate(x, p0, p1, p2, center=center, groups=groups)
    check_feature_map("x", x)
    check_moments("squeeze", squeeze)
    check_groups(groups, x)
    if not callable(mix):
        raise TypeError(f"mix: expected a callable, got {type(mix).__name__}")
    if backend_for("self_gate", x) == "reference":
        wide = x.to(ops.acc_dtype(x))
        p0, p1, p2, center = mixed(mix, squeezed(wide, squeeze), x)
        return reference.self_gate(x, p0, p1, p2, center=center, groups=groups)
    dense = ops.dense(x)
    asked = bits(squeeze)
    if x.requires_grad and torch.is_grad_enabled():
        mean, var, token, *carriers = autograd.self_squeeze_carried(dense, asked, groups)
    else:
        mean, var, *_ = autograd.squeeze(dense, asked)
        token = None
    statistics = {"mean": mean, "var": var}
    values = tuple(statistics[name][:, :, None, None] for name in squeeze)
    p0, p1, p2, center = mixed(mix, values, x)
    coefficients = wide_coefficients((center, p2, p1, p0), x)
    if token is None:
        y = autograd.self_gate(dense, *coefficients, groups)
    else:
        used = (None if t is None else c for t, c in zip(coefficients, carriers, strict=True))
        y = autograd.self_gate_carried(dense, *coefficients, groups, token, *used)
    return laid_out_as(y, x, dense)


def mixed(mix, statistics, x) -> tuple[Any, ...]:
    found = mix(*statistics)
    if not isinstance(found, tuple) or len(found) != 4:
        raise TypeError(f"mix: expected it to return (p0, p1, p2, center), got {type(found)}")
    names = ("mix's p0", "mix's p1", "mix's p2", "mix's center")
    check_coefficients(dict(zip(names, found, strict=True)), x)
    return found


def wide_coefficients(coefficients, x) -> tuple[torch.Tensor | None, ...]:
    """As the op takes them."""
    return tuple(None if t is None else coefficient(t, x) for t in coefficients)
