"""A linear layer on the channels of every pixel, and its gradients."""

import torch

from .precision import without_autocast


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


def linear_backward(
    d_out: torch.Tensor, t: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of t, w and b of `linear`."""
    d_tokens = as_tokens(d_out, w)
    return linear(d_out, w.mT), d_tokens.mT @ as_tokens(t, w), d_tokens.sum(-2)
