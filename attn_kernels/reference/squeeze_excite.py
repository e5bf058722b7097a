"""Squeeze and excitation. `hidden` (N, R) is what the activation gets; weights are (R, C, 1, 1) and
(C, R, 1, 1), as 1x1 convolutions hold them, or G sets of them, each for one of G equal parts of the
images.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .linear import linear, linear_backward
from .precision import widened
from .squeeze import statistic
from .view import per_pixel

Function = Callable[[torch.Tensor], torch.Tensor]
ACTIVATIONS: dict[str, Function] = {
    "relu": F.relu,
    "silu": F.silu,
    "identity": lambda hidden: hidden,
}
GATES: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    # F.hardsigmoid, whose gradient multiplies by a sixth in float32
    "hardsigmoid": lambda logit: F.relu6(logit + 3) / 6,
}


def squeeze_excite(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor | None,
    w2: torch.Tensor,
    b2: torch.Tensor | None,
    activation: str = "relu",
    gate: str = "sigmoid",
) -> torch.Tensor:
    """``x * gate(w2 @ activation(w1 @ mean_hw(x) + b1) + b2)`` in x's dtype, rounded once."""
    return forward(x, w1, b1, w2, b2, activation, gate)[0]


def forward(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor | None,
    w2: torch.Tensor,
    b2: torch.Tensor | None,
    activation: str,
    gate: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, and scale, mean (N, C) and hidden (N, R) in the accumulate dtype."""
    mean = statistic(x, "mean")
    hidden = of_vectors(mean, w1, b1)
    scale = GATES[gate](of_vectors(ACTIVATIONS[activation](hidden), w2, b2))
    return (widened(x) * per_pixel(scale)).to(x.dtype), scale, mean, hidden


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    scale: torch.Tensor,
    mean: torch.Tensor,
    hidden: torch.Tensor,
    activation: str,
    gate: str,
) -> tuple[torch.Tensor, ...]:
    """dx, and d_w1, d_b1, d_w2, d_b2 in the accumulate dtype."""
    dr = widened(dy)
    d_scale = (dr * widened(x)).sum((2, 3))
    d_mean, *others = statistics_backward(
        d_scale, None, None, w1, w2, scale, mean, hidden, activation, gate
    )
    dx = dr * per_pixel(scale) + per_pixel(d_mean) / (x.shape[2] * x.shape[3])
    return dx.to(x.dtype), *others


def statistics_backward(
    d_scale: torch.Tensor | None,
    d_mean: torch.Tensor | None,
    d_hidden: torch.Tensor | None,
    w1: torch.Tensor,
    w2: torch.Tensor,
    scale: torch.Tensor,
    mean: torch.Tensor,
    hidden: torch.Tensor,
    activation: str,
    gate: str,
) -> tuple[torch.Tensor, ...]:
    """All of d_mean, and d_w1, d_b1, d_w2, d_b2."""
    d_scale, d_mean, d_hidden = (
        torch.zeros_like(t) if d is None else d
        for d, t in ((d_scale, scale), (d_mean, mean), (d_hidden, hidden))
    )
    if gate == "sigmoid":
        d_logit = d_scale * scale * (1 - scale)
    else:
        d_logit = torch.where((scale > 0) & (scale < 1), d_scale / 6, 0)
    d_active, d_w2, d_b2 = of_vectors_backward(d_logit, ACTIVATIONS[activation](hidden), w2)
    d_hidden = d_hidden + activation_backward(d_active, hidden, activation)
    through_hidden, d_w1, d_b1 = of_vectors_backward(d_hidden, mean, w1)
    return d_mean + through_hidden, d_w1, d_b1, d_w2, d_b2


def activation_backward(
    d_active: torch.Tensor, hidden: torch.Tensor, activation: str
) -> torch.Tensor:
    """d_hidden; a ReLU lets through what NaN gets."""
    if activation == "silu":
        s = torch.sigmoid(hidden)
        return d_active * (s * (1 + hidden * (1 - s)))
    return d_active.masked_fill(hidden <= 0, 0) if activation == "relu" else d_active


def of_vectors(t: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    """w @ t + b for t (N, C)."""
    return linear(per_pixel(t), w.flatten(-3), b).flatten(1)


def of_vectors_backward(
    d_out: torch.Tensor, t: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of t, w and b of `of_vectors`."""
    d_t, d_w, d_b = linear_backward(per_pixel(d_out), per_pixel(t), w.flatten(-3))
    return d_t.flatten(1), d_w.reshape(w.shape), d_b
