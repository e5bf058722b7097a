from collections.abc import Sequence

import torch
from torch import nn

from .. import functional
from ..checks import check_bool, check_int
from .channels import check_ratio, divisible
from .children import obstacle, unfused


class SelectiveKernelPath(nn.Module):
    """Convolution, norm, activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, dilation: int,
        groups: int, act_layer: type[nn.Module], norm_layer: type[nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        padding = (stride - 1 + dilation * (kernel_size - 1)) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False
        )
        self.bn = norm_layer(out_channels)
        self.act = act_layer(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class SelectiveKernelAttention(nn.Module):
    """What selects: the factors of all paths, softmax over paths, from the mean of their sum.

    (N, M, C, H, W) -> (N, M, C, 1, 1).
    """

    def __init__(
        self, channels: int, paths: int, hidden: int, act_layer: type[nn.Module],
        norm_layer: type[nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.paths = paths
        self.fc_reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = norm_layer(hidden)
        self.act = act_layer(inplace=True)
        self.fc_select = nn.Conv2d(hidden, channels * paths, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.of_mean(x.sum(1).mean((2, 3), keepdim=True))

    def of_mean(self, mean: torch.Tensor) -> torch.Tensor:
        logits = self.fc_select(self.act(self.bn(self.fc_reduce(mean))))
        return torch.softmax(logits.unflatten(1, (self.paths, -1)), 1)


class SelectiveKernel(nn.Module):
    """Selective kernels: branches of different receptive fields, and a choice among them for each
    channel of each image.

    ``sum of a_m * x_m``, ``x_m = relu(bn(conv(x)))`` of each path,
    ``a = softmax(fc_select(relu(bn(fc_reduce(mean_hw(sum of x_m))))))`` over paths.

    (N, C, H, W) -> (N, out_channels, H', W'). Parameters: those of ``paths.{i}.conv``,
    ``paths.{i}.bn``, ``attn.fc_reduce``, ``attn.bn`` and ``attn.fc_select``, as timm's module has
    them. The paths' maps are never stacked, unless ``attn`` is more than its layers: then it is
    called on the stack, and the module's repr says so. All other layers are called as they are,
    whatever they have become.

    Args:
        in_channels, out_channels: None: as many as come in.
        kernel_size: of each path, odd and at least 3; a number: of two paths. None: 3 and 5.
        stride, dilation, groups: of the paths' convolutions.
        rd_ratio, rd_channels, rd_divisor: `rd_channels` hidden units, or out_channels * rd_ratio,
            rounded to a multiple of rd_divisor.
        keep_3x3: whether larger kernels are dilated 3x3 ones.
        split_input: whether each path gets its own part of the input's channels.
        act_layer, norm_layer: classes of layers.

    Raises:
        TypeError: a number is no int, or an option no bool.
        ValueError: there are no channels, a kernel size does not serve, or the paths or groups do
            not divide the channels.

    Li et al., Selective Kernel Networks, CVPR 2019.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | Sequence[int] | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        rd_ratio: float = 1.0 / 16,
        rd_channels: int | None = None,
        rd_divisor: int = 8,
        keep_3x3: bool = True,
        split_input: bool = True,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        sizes = kernel_sizes(kernel_size)
        for name, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("stride", stride),
            ("dilation", dilation),
            ("groups", groups),
            ("rd_divisor", rd_divisor),
        ):
            check_int(name, value, least=1)
        check_bool("keep_3x3", keep_3x3)
        check_bool("split_input", split_input)
        if split_input and in_channels % len(sizes):
            raise ValueError(
                f"in_channels: expected a multiple of the paths ({len(sizes)}), got {in_channels}"
            )
        self.in_channels, self.out_channels, self.split_input = (
            in_channels,
            out_channels,
            split_input,
        )
        of_path = in_channels // len(sizes) if split_input else in_channels
        groups = min(out_channels, groups)
        if of_path % groups or out_channels % groups:
            raise ValueError(
                f"groups: expected a divisor of a path's channels ({of_path}) and of out_channels "
                f"({out_channels}), got {groups}"
            )
        if rd_channels is None:
            check_ratio("rd_ratio", rd_ratio)
            rd_channels = divisible(out_channels * rd_ratio, rd_divisor)
        check_int("rd_channels", rd_channels, least=1)
        self.paths = nn.ModuleList(
            SelectiveKernelPath(
                of_path,
                out_channels,
                3 if keep_3x3 else size,
                stride,
                dilation * (size - 1) // 2 if keep_3x3 else dilation,
                groups,
                act_layer,
                norm_layer,
            )
            for size in sizes
        )
        self.attn = SelectiveKernelAttention(
            out_channels, len(sizes), rd_channels, act_layer, norm_layer
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.split_input:
            inputs = x.split(self.in_channels // len(self.paths), 1)
            maps = [path(inputs[i]) for i, path in enumerate(self.paths)]
        else:
            maps = [path(x) for path in self.paths]
        attention = self.attn
        if obstacle(attention, SelectiveKernelAttention) is None:
            return functional.mix_squeeze_gate(maps, attention.of_mean)
        stack = torch.stack(maps, 1)
        return (stack * attention(stack)).sum(1)

    def extra_repr(self) -> str:
        said = unfused(attn=obstacle(self.attn, SelectiveKernelAttention))
        return ", ".join(filter(None, (f"split_input={self.split_input}", said)))


def kernel_sizes(kernel_size: int | Sequence[int] | None) -> list[int]:
    """Of each path."""
    if kernel_size is None:
        return [3, 5]
    sizes = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
    if not sizes:
        raise ValueError("kernel_size: expected at least one, got none")
    for size in sizes:
        check_int("kernel_size", size)
        if size < 3 or size % 2 == 0:
            raise ValueError(f"kernel_size: expected odd numbers of at least 3, got {size}")
    return sizes
