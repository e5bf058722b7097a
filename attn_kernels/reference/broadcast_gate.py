import torch
import torch.nn.functional as F

from .precision import widened
from .view import finished, finished_backward

COMBINE = ("mul", "add")
GATES = ("identity", "sigmoid", "hardsigmoid")


def broadcast_gate(
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    combine: str = "mul",
    gate: str = "identity",
    skip: bool = False,
    residual: torch.Tensor | None = None,
    activation: str = "identity",
) -> torch.Tensor:
    """``activation(x * (skip + gate(a * b)) + residual)``, or ``a + b``, in x's dtype, rounded
    once; a and b broadcast to x.
    """
    return forward(x, a, b, residual, combine, gate, skip, activation)


def forward(
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor | None,
    residual: torch.Tensor | None,
    combine: str,
    gate: str,
    skip: bool,
    activation: str,
) -> torch.Tensor:
    """y."""
    f = widened(x)
    a, b = a.to(f.dtype), None if b is None else b.to(f.dtype)
    return finished(f * factor(a, b, combine, gate, skip), residual, activation, x.dtype)


def combined(a: torch.Tensor, b: torch.Tensor | None, combine: str) -> torch.Tensor:
    """What the gate gets."""
    if b is None:
        return a
    return a * b if combine == "mul" else a + b


def factor(
    a: torch.Tensor, b: torch.Tensor | None, combine: str, gate: str, skip: bool
) -> torch.Tensor:
    """What x is multiplied by."""
    u = combined(a, b, combine)
    if gate != "identity":
        # PyTorch's own hardsigmoid has a slope in float32, of float64 too.
        u = torch.sigmoid(u) if gate == "sigmoid" else F.relu6(u + 3) / 6
    return u + 1 if skip else u


def sums(
    dy: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor | None,
    y: torch.Tensor | None,
    combine: str,
    gate: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """d_a and d_b, shaped as a and b, in the accumulate dtype, and dr; d_b is empty without b, dr
    where y is None: then it is dy.
    """
    dr = finished_backward(dy, y)
    u, d_u = combined(a, b, combine), dr * widened(x)
    if gate == "sigmoid":
        map = torch.sigmoid(u)
        d_u = d_u * (map * (1 - map))
    elif gate == "hardsigmoid":
        d_u = (d_u / 6).masked_fill((u <= -3) | (u >= 3), 0)
    if b is None:
        d_a, d_b = summed_to(d_u, a), d_u.new_empty(0)
    elif combine == "mul":
        d_a, d_b = summed_to(d_u * b, a), summed_to(d_u * a, b)
    else:
        d_a, d_b = summed_to(d_u, a), summed_to(d_u, b)
    return d_a, d_b, (dr.new_empty(0) if y is None else dr).to(x.dtype)


def summed_to(map: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Sums over what `like` has one of: channels, rows or columns."""
    axes = [i for i in (1, 2, 3) if like.shape[i] == 1]
    return map.sum(axes, keepdim=True) if axes else map
