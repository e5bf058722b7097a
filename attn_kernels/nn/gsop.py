import torch
from torch import nn

from .. import functional
from ..checks import check_int


class GSoP(nn.Module):
    """Global second-order pooling: a gate per channel from the covariance of reduced channels.

    (N, C, H, W) -> (N, C, H, W): ``x * sigmoid(fc_adapt_channels(row_conv_group(row_bn(cov))))``,
    where cov (N, D, D, 1) is the covariance over pixels of ``relu(bn_for_DR(conv_for_DR(x)))``: a
    product of D x HW matrices, never one of HW x HW. Parameters: ``conv_for_DR.weight`` (D, C, 1,
    1), ``bn_for_DR``, ``row_bn``, ``row_conv_group`` (4 D, 1, D, 1) and ``fc_adapt_channels``
    (C, 4 D, 1, 1), as in the published code, whose ReLU before ``conv_for_DR`` is its network's.
    The layers are called as they are, whatever they have become.

    Args:
        channels: C.
        reduced: D, the channels whose covariance is taken.

    Raises:
        TypeError: channels or reduced is no int.
        ValueError: there are no channels.

    Gao et al., Global Second-order Pooling Convolutional Networks, CVPR 2019.
    """

    squeeze = ()  # the statistics are its own: mix takes the reduced channels

    def __init__(self, channels: int, reduced: int = 128) -> None:
        super().__init__()
        check_int("channels", channels, least=1)
        check_int("reduced", reduced, least=1)
        self.conv_for_DR = nn.Conv2d(channels, reduced, 1, bias=False)
        self.bn_for_DR = nn.BatchNorm2d(reduced)
        self.row_bn = nn.BatchNorm2d(reduced)
        self.row_conv_group = nn.Conv2d(reduced, 4 * reduced, (reduced, 1), groups=reduced)
        self.fc_adapt_channels = nn.Conv2d(4 * reduced, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.affine_gate(x, self.mix(self.conv_for_DR(x)))

    def mix(self, reduced: torch.Tensor) -> torch.Tensor:
        """scale (N, C, 1, 1) from what conv_for_DR made of x, (N, D, H, W)."""
        rows = covariance(torch.relu(self.bn_for_DR(reduced))).unsqueeze(3)
        return torch.sigmoid(self.fc_adapt_channels(self.row_conv_group(self.row_bn(rows))))


def covariance(x: torch.Tensor) -> torch.Tensor:
    """(N, D, D) over pixels, of deviations from the mean: large means cost no digits."""
    pixels = x.flatten(2)
    deviations = pixels - pixels.mean(2, keepdim=True)
    return deviations @ deviations.mT / pixels.shape[2]
