import torch
import torch.nn.functional as F

from .precision import widened, without_autocast


def gam_channel_gate(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    activation: str = "identity",
) -> torch.Tensor:
    """``x * activation(w2 @ relu(w1 @ x + b1) + b2)`` per pixel, in x's dtype.

    The hidden units are rounded to x's dtype, in which they are saved: forward and backward see the
    same ones.
    """
    wide = widened(x)
    w1, b1, w2, b2 = (p.to(wide.dtype) for p in (w1, b1, w2, b2))
    with without_autocast(x):
        hidden = torch.relu(F.linear(wide.permute(0, 2, 3, 1), w1, b1).to(x.dtype))
        gate = F.linear(hidden.to(wide.dtype), w2, b2).permute(0, 3, 1, 2)
    if activation == "sigmoid":
        gate = torch.sigmoid(gate)
    return (wide * gate).to(x.dtype)
