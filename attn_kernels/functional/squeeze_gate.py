from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.overrides import has_torch_function

from ..checks import check_epilogue, check_feature_map, check_mixed, check_statistics
from .affine_gate import affine_gate
from .operands import autocasts, product_dtype
from .squeeze import squeeze as squeezed
from .squeeze_mix_gate import Statistics, View, squeeze_mix_gate

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
    no second map to add. To `torch.fx` this is `squeeze`, the mix and `affine_gate`; where plain
    PyTorch serves, in forward mode, and after an export for which x required no gradient, it is
    computed so, too.

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

    def view(statistics: Statistics) -> View:
        narrowed = (t.to(x.dtype).view(*t.shape, 1, 1) for t in statistics.values())
        scale, shift = mixed(mix, narrowed, x)
        return View(scale, shift, product_dtype(x, scale, shift))

    return squeeze_mix_gate(x, squeeze, view, None, residual, activation)


def mixed(
    mix: Mix, statistics: Iterable[torch.Tensor], x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """scale and shift, None where mix returns none."""
    found = mix(*statistics)
    factors = found if isinstance(found, tuple) else (found,)
    check_mixed(factors, x, any_dtype=autocasts(x))
    return factors[0], factors[1] if len(factors) == 2 else None
