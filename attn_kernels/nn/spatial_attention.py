import torch
from torch import nn

from .. import functional
from ..checks import check_kernel_size


class SpatialAttention(nn.Module):
    """The map of spatial attention: ``sigmoid(conv1(cat[mean_c(x), max_c(x)]))``.

    (N, C, H, W) -> (N, 1, H, W). Parameters: ``conv1.weight`` (1, 2, K, K) and, with ``bias=True``,
    ``conv1.bias`` (1,), as in the widely used eager module.

    Args:
        kernel_size: K, odd and from 1 to 15.
        bias: whether the convolution has one.

    Raises:
        ValueError: kernel_size is even or out of range.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018.
    """

    def __init__(self, kernel_size: int = 7, bias: bool = False) -> None:
        super().__init__()
        check_kernel_size("kernel_size", kernel_size)
        self.conv1 = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv1
        return functional.spatial_attention(x, conv.weight, conv.bias)
