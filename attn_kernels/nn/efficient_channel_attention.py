import math

import torch
from torch import nn

from .. import functional
from ..checks import check_int


class EfficientChannelAttention(nn.Module):
    """Efficient channel attention: ``x * sigmoid(conv(mean_hw(x)))``, a convolution along channels.

    (N, C, H, W) -> (N, C, H, W). The parameter is ``conv.weight`` (1, 1, K), as in the published
    module. The convolution is called as it is, whatever it has become.

    Args:
        channels: C, from which K follows: the odd one of t and t + 1, at least 3, with
            ``t = int(abs(log2(C) + 1) / 2)``. The convolution serves any other C as well.
        kernel_size: K, odd; given, it is what holds. With neither K is 3.

    Raises:
        TypeError: channels or kernel_size is no int.
        ValueError: there are no channels, or kernel_size is even or below 1.

    Wang et al., ECA-Net: Efficient Channel Attention, CVPR 2020.
    """

    squeeze = ("mean",)

    def __init__(self, channels: int | None = None, kernel_size: int | None = None) -> None:
        super().__init__()
        if channels is not None:
            check_int("channels", channels, least=1)
        if kernel_size is None:
            kernel_size = 3 if channels is None else adaptive_kernel_size(channels)
        check_int("kernel_size", kernel_size, least=1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.squeeze_gate(x, self.mix, self.squeeze)

    def mix(self, mean: torch.Tensor) -> torch.Tensor:
        logit = self.conv(mean.reshape(mean.shape[0], 1, mean.shape[1]))
        return torch.sigmoid(logit).reshape(mean.shape)


def adaptive_kernel_size(channels: int) -> int:
    t = int(abs(math.log2(channels) + 1) / 2)
    return max(t if t % 2 else t + 1, 3)
