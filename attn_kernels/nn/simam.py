import torch
from torch import nn

from .. import functional
from ..functional.operands import overridable


class SimAM(nn.Module):
    """SimAM: ``x * sigmoid(d / (4 * (sum(d) / (H * W - 1) + e_lambda)) + 0.5)``, ``d = (x -
    mean)**2`` with mean and sum over the pixels of each channel.

    (N, C, H, W) -> (N, C, H, W). There are no parameters.

    Args:
        e_lambda: what keeps the quotient finite.

    Raises:
        TypeError: e_lambda is no number.
        ValueError: e_lambda is negative; when called, a map of one pixel, for which the published
            code divides zero by zero.

    Yang et al., SimAM: A Simple, Parameter-Free Attention Module, ICML 2021.
    """

    def __init__(self, e_lambda: float = 1e-4) -> None:
        super().__init__()
        if not isinstance(e_lambda, int | float) or isinstance(e_lambda, bool):
            raise TypeError(f"e_lambda: expected a number, got {e_lambda!r}")
        if not e_lambda >= 0:
            raise ValueError(f"e_lambda: expected at least 0, got {e_lambda}")
        self.e_lambda = e_lambda

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = pixels_of(x)

        def mix(mean, var):
            unbiased = var * (pixels / (pixels - 1))
            return torch.full_like(mean, 0.5), None, 0.25 / (unbiased + self.e_lambda), mean

        return functional.self_squeeze_gate(x, mix)

    def extra_repr(self) -> str:
        return f"e_lambda={self.e_lambda}"


@overridable  # one node to torch.fx, whose proxies have no sizes to compare
def pixels_of(x: torch.Tensor) -> int:
    """H * W, more than 1 where x is a map at all."""
    pixels = x.shape[-2:].numel()
    if x.dim() == 4 and pixels == 1:
        raise ValueError(f"x: expected more than one pixel, got {tuple(x.shape)}")
    return pixels
