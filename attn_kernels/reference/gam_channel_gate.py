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
    """``x * activation(w2 @ relu(w1 @ x + b1) + b2)`` per pixel, rounded once, in x's dtype."""
    wide = widened(x)
    w1, b1, w2, b2 = (p.to(wide.dtype) for p in (w1, b1, w2, b2))
    with without_autocast(x):
        hidden = torch.relu(F.linear(wide.permute(0, 2, 3, 1), w1, b1))
        gate = F.linear(hidden, w2, b2).permute(0, 3, 1, 2)
    if activation == "sigmoid":
        gate = torch.sigmoid(gate)
    return (wide * gate).to(x.dtype)
