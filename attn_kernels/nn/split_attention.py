import torch
from torch import nn

from .. import functional
from ..checks import check_bool, check_int
from .channels import check_ratio, divisible


class SplitAttention(nn.Module):
    """Split attention: a convolution gives `radix` branches, and each channel of each image a
    choice among them.

    ``sum of a_r * x_r``, where the channels of ``x = relu(bn0(conv(x)))`` are those of all branches
    and ``a = softmax(fc2(relu(bn1(fc1(mean_hw(sum of x_r))))))`` over branches; sigmoid of one.

    (N, C, H, W) -> (N, out_channels, H', W'). Parameters: those of ``conv``, ``bn0``, ``fc1``,
    ``bn1`` and ``fc2``, as timm's SplitAttn has them. The branches are read where the convolution
    put them. The layers are called as they are, whatever they have become.

    Args:
        in_channels, out_channels: None: as many as come in.
        kernel_size, stride, padding, dilation, bias: of the convolution; no padding: half of the
            kernel.
        groups: of the branches and of the layers that select.
        radix: how many branches there are.
        rd_ratio, rd_channels, rd_divisor: rd_channels * radix hidden units, or in_channels * radix
            * rd_ratio, rounded to a multiple of rd_divisor and at least 32.
        act_layer, norm_layer: classes of layers; no norm_layer, which is timm's default: no norms.

    Raises:
        TypeError: a number is no int, or bias no bool.
        ValueError: there are no channels, or groups and radix do not divide them.

    Zhang et al., ResNeSt: Split-Attention Networks, CVPR workshops 2022.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        radix: int = 2,
        rd_ratio: float = 0.25,
        rd_channels: int | None = None,
        rd_divisor: int = 8,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] | None = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        for name, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("kernel_size", kernel_size),
            ("stride", stride),
            ("dilation", dilation),
            ("groups", groups),
            ("radix", radix),
            ("rd_divisor", rd_divisor),
        ):
            check_int(name, value, least=1)
        check_bool("bias", bias)
        padding = kernel_size // 2 if padding is None else padding
        check_int("padding", padding, least=0)
        if in_channels % (groups * radix):
            raise ValueError(
                f"radix: expected one that, times groups ({groups}), divides in_channels "
                f"({in_channels}), got {radix}"
            )
        if rd_channels is None:
            check_ratio("rd_ratio", rd_ratio)
            hidden = divisible(in_channels * radix * rd_ratio, rd_divisor, least=32)
        else:
            check_int("rd_channels", rd_channels, least=1)
            hidden = rd_channels * radix
        if out_channels % groups or hidden % groups:
            raise ValueError(
                f"groups: expected a divisor of out_channels ({out_channels}) and of the hidden "
                f"units ({hidden}), got {groups}"
            )
        self.radix, self.groups = radix, groups
        branches = out_channels * radix
        self.conv = nn.Conv2d(
            in_channels,
            branches,
            kernel_size,
            stride,
            padding,
            dilation,
            groups=groups * radix,
            bias=bias,
        )
        self.bn0 = nn.Identity() if norm_layer is None else norm_layer(branches)
        self.act0 = act_layer(inplace=True)
        self.fc1 = nn.Conv2d(out_channels, hidden, 1, groups=groups)
        self.bn1 = nn.Identity() if norm_layer is None else norm_layer(hidden)
        self.act1 = act_layer(inplace=True)
        self.fc2 = nn.Conv2d(hidden, branches, 1, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = self.act0(self.bn0(self.conv(x)))
        return functional.mix_squeeze_gate(branches, self._select, self.radix)

    def _select(self, mean: torch.Tensor) -> torch.Tensor:
        logits = self.fc2(self.act1(self.bn1(self.fc1(mean))))
        if self.radix == 1:
            return torch.sigmoid(logits).unflatten(1, (1, -1))
        # Within a group the layer's channels are those of one branch after the other.
        by_group = logits.unflatten(1, (self.groups, self.radix, -1)).transpose(1, 2)
        return torch.softmax(by_group, 1).flatten(2, 3)

    def extra_repr(self) -> str:
        return f"radix={self.radix}, groups={self.groups}"
