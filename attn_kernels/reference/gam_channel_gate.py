import torch

from .precision import widened, without_autocast


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


def linear(t: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    """w @ t + b per pixel, in t's dtype. With w (G, R, C) and b (G, R), image n of t has number
    n G / N.
    """
    tokens = as_tokens(t, w)
    with without_autocast(t):
        out = tokens @ w.to(t.dtype).mT
    if b is not None:
        out = out + b.to(t.dtype).unsqueeze(-2)
    n, _, h, width = t.shape
    return out.reshape(n, h, width, out.shape[-1]).permute(0, 3, 1, 2)


def as_tokens(t: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N H W, C), or (G, N H W / G, C) where w has G sets."""
    tokens = t.permute(0, 2, 3, 1).flatten(0, 2)
    return tokens if w.dim() == 2 else tokens.unflatten(0, (w.shape[0], -1))


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


def linear_backward(
    d_out: torch.Tensor, t: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of t, w and b of `linear`."""
    d_tokens = as_tokens(d_out, w)
    return linear(d_out, w.mT), d_tokens.mT @ as_tokens(t, w), d_tokens.sum(-2)
