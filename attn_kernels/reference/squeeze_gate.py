from collections.abc import Callable, Sequence
from typing import Any

import torch

from .affine_gate import affine_gate
from .squeeze import squeeze as squeezed


def squeeze_gate(
    x: torch.Tensor,
    mix: Callable[..., Any],
    squeeze: Sequence[str] = ("mean",),
    *,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """``affine_gate(x, *mix(*squeeze(x, squeeze)), residual=residual, activation=activation)``."""
    found = mix(*squeezed(x, squeeze))
    factors = found if isinstance(found, tuple) else (found,)
    return affine_gate(x, *factors, residual=residual, activation=activation)
