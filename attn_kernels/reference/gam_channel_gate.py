import torch

from .linear import linear, linear_backward
from .precision import widened


def gam_channel_gate(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    activation: str = "identity",
) -> torch.Tensor:
    """``x * activation(w2 @ relu(w1 @ x + b1) + b2)`` per pixel, in x's dtype; hidden units and the
    result are rounded to it once.
    """
    return forward(x, w1, b1, w2, b2, activation)[0]


def forward(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y, and hidden (N, R, H, W) in x's dtype."""
    wide = widened(x)
    hidden = torch.relu(linear(wide, w1, b1).to(x.dtype))
    return (wide * gate(hidden, w2, b2, activation)).to(x.dtype), hidden


def gate(hidden: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor, activation: str) -> torch.Tensor:
    logit = linear(widened(hidden), w2, b2)
    return torch.sigmoid(logit) if activation == "sigmoid" else logit


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    hidden: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    activation: str,
) -> tuple[torch.Tensor, ...]:
    """dx, and d_w1, d_b1, d_w2, d_b2 in the accumulate dtype."""
    dtype, dy = x.dtype, widened(dy)
    g = gate(hidden, w2, b2, activation)
    d_logit = dy * widened(x)
    if activation == "sigmoid":
        d_logit = d_logit * g * (1 - g)
    d_hidden, d_w2, d_b2 = linear_backward(d_logit, widened(hidden), w2)
    dx, d_w1, d_b1 = hidden_backward(d_hidden, x, hidden, w1)
    return (dy * g + dx).to(dtype), d_w1, d_b1, d_w2, d_b2


def hidden_backward(
    d_hidden: torch.Tensor, x: torch.Tensor, hidden: torch.Tensor, w1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dx, d_w1 and d_b1 of the hidden units, in the accumulate dtype."""
    return linear_backward(widened(d_hidden).masked_fill(hidden <= 0, 0), widened(x), w1)
