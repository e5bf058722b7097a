"""Whole networks with attention gates, the gates fused (attn_kernels) or eager (eager_gates).

    build_network("resnet18-cbam-spatial", gates="fused")

Fused and eager twins have the same state_dict keys. The networks themselves are those of their
papers, without the gates equal to the well-known ones parameter for parameter.
"""

from collections.abc import Callable, Sequence

import eager_gates
import torch
import torch.nn.functional as F
from torch import nn

import attn_kernels

GATES = {"fused": attn_kernels, "eager": eager_gates}
TAILS = {"fused": attn_kernels.nn.Tail, "eager": eager_gates.Tail}
VGG16 = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]  # channels and convolutions of each block

Gate = Callable[[int], nn.Module]  # channels -> a gate for maps of so many channels


def build_network(name: str, gates: str = "fused", num_classes: int = 1000) -> nn.Module:
    """The network `name`, on RGB images: (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        ValueError: no such network, or gates is neither "fused" nor "eager".
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}; got {name!r}")
    return NETWORKS[name](gates, num_classes)


def spatial_gate(gates: str) -> Gate:
    """Makes spatial gates (7x7) of one kind; they need not know the number of channels."""
    return lambda channels: _gates(gates).SpatialGate(kernel_size=7)


def gam_gate(gates: str) -> Gate:
    """Makes GAM gates of one kind, in the light variant that the paper gives ResNet-50."""
    return lambda channels: _gates(gates).GAMAttention(channels, groups=4, channel_shuffle=True)


def tail(gates: str, gate: str) -> Gate:
    """Makes ends of residual blocks: a batch norm and the gate of that class; called with z and the
    residual.
    """
    make = getattr(_gates(gates), gate)
    return lambda channels: TAILS[gates](nn.BatchNorm2d(channels), make(channels))


def _gates(gates: str):
    if gates not in GATES:
        raise ValueError(f"gates must be 'fused' or 'eager'; got {gates!r}")
    return GATES[gates]


# VGG: each block is 3x3 convolutions with ReLU, a max-pool and the gate.


def vgg_blocks(in_channels: int, plan: Sequence[tuple[int, int]], gate: Gate) -> nn.Sequential:
    """(N, in_channels, H, W) -> (N, C, H / 2**blocks, W / 2**blocks), C from the plan's last block.

    plan: (channels, convolutions) of each block.
    """
    blocks = nn.Sequential()
    for channels, convolutions in plan:
        block = nn.Sequential()
        for _ in range(convolutions):
            block.extend([_vgg_conv(in_channels, channels), nn.ReLU(inplace=True)])
            in_channels = channels
        blocks.append(block.extend([nn.MaxPool2d(2), gate(channels)]))
    return blocks


def _vgg_conv(in_channels: int, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1)
    # Without batch norm a deep network only learns when every layer keeps its input's variance.
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv


def _vgg16_spatial(gates: str, num_classes: int) -> nn.Module:
    return nn.Sequential(
        vgg_blocks(3, VGG16, spatial_gate(gates)),
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        nn.Linear(4096, num_classes),
    )


# ResNet: the gate is the last thing on the residual branch, before the addition.


class Residual(nn.Module):
    """``relu(branch(x) + shortcut(x))``: (N, C, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, branch: nn.Module, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else _conv_bn(in_channels, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def _conv(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)


def _conv_bn(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    conv = _conv(in_channels, channels, kernel_size, stride)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _basic_block(in_channels: int, channels: int, stride: int, gate: Gate) -> Residual:
    branch = nn.Sequential(
        *(_conv_bn(in_channels, channels, 3, stride), nn.ReLU(inplace=True)),
        *(_conv_bn(channels, channels, 3), gate(channels)),
    )
    return Residual(branch, in_channels, channels, stride)


def _bottleneck(in_channels: int, channels: int, stride: int, gate: Gate) -> Residual:
    narrow = channels // 4
    branch = nn.Sequential(
        *(_conv_bn(in_channels, narrow, 1), nn.ReLU(inplace=True)),
        *(_conv_bn(narrow, narrow, 3, stride), nn.ReLU(inplace=True)),
        *(_conv_bn(narrow, channels, 1), gate(channels)),
    )
    return Residual(branch, in_channels, channels, stride)


# The same with tails: the block's last batch norm, its gate, addition and ReLU are one module.


class TailBlock(nn.Module):
    """``tail(convolutions(x), shortcut(x))`` with the usual names: conv1, bn1, relu, conv2, ...,
    downsample; `tail.norm` and `tail.gate` stand for the last batch norm and the gate.
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], tail: nn.Module) -> None:
        super().__init__()
        first, last = convolutions[0], convolutions[-1]
        stride = max(conv.stride[0] for conv in convolutions)
        for i, conv in enumerate(convolutions, start=1):
            self.add_module(f"conv{i}", conv)
            if conv is not last:
                self.add_module(f"bn{i}", nn.BatchNorm2d(conv.out_channels))
        self.relu = nn.ReLU(inplace=True)
        self.tail = tail
        same = first.in_channels == last.out_channels and stride == 1
        self.downsample = (
            None if same else _conv_bn(first.in_channels, last.out_channels, 1, stride)
        )
        self.depth = len(convolutions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.conv1(x)
        for i in range(1, self.depth):
            z = self.relu(getattr(self, f"bn{i}")(z))
            z = getattr(self, f"conv{i + 1}")(z)
        return self.tail(z, x if self.downsample is None else self.downsample(x))


def _basic_block_with_tail(in_channels: int, channels: int, stride: int, tail: Gate) -> TailBlock:
    convolutions = _conv(in_channels, channels, 3, stride), _conv(channels, channels, 3)
    return TailBlock(convolutions, tail(channels))


def _bottleneck_with_tail(in_channels: int, channels: int, stride: int, tail: Gate) -> TailBlock:
    narrow = channels // 4
    convolutions = (
        _conv(in_channels, narrow, 1),
        _conv(narrow, narrow, 3, stride),
        _conv(narrow, channels, 1),
    )
    return TailBlock(convolutions, tail(channels))


def _resnet(
    stem: Sequence[nn.Module],
    block: Callable[[int, int, int, Gate], nn.Module],
    stages: Sequence[tuple[int, int]],
    gate: Gate,
    num_classes: int,
) -> nn.Module:
    """stages: (channels, blocks) of each; all but the first halve the map."""
    blocks, in_channels = [], stem[0][0].out_channels
    for stage, (channels, depth) in enumerate(stages):
        for i in range(depth):
            stride = 2 if stage > 0 and i == 0 else 1
            blocks.append(block(in_channels, channels, stride, gate))
            in_channels = channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes)]
    return nn.Sequential(*stem, *blocks, *head)


def _imagenet_stem() -> Sequence[nn.Module]:
    return _conv_bn(3, 64, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)


def _resnet20_cbam_spatial(gates: str, num_classes: int) -> nn.Module:
    """For images of 32 x 32 pixels: no pooling, and 16 to 64 channels."""
    stem = _conv_bn(3, 16, 3), nn.ReLU(inplace=True)
    stages = [(16, 3), (32, 3), (64, 3)]
    return _resnet(stem, _basic_block, stages, spatial_gate(gates), num_classes)


RESNET18 = [(64, 2), (128, 2), (256, 2), (512, 2)]
RESNET50 = [(256, 3), (512, 4), (1024, 6), (2048, 3)]


def _resnet18_cbam_spatial(gates: str, num_classes: int) -> nn.Module:
    return _resnet(_imagenet_stem(), _basic_block, RESNET18, spatial_gate(gates), num_classes)


def _resnet50_gam(gates: str, num_classes: int) -> nn.Module:
    return _resnet(_imagenet_stem(), _bottleneck, RESNET50, gam_gate(gates), num_classes)


def _resnet18_cbam(gates: str, num_classes: int) -> nn.Module:
    return _resnet(
        _imagenet_stem(), _basic_block_with_tail, RESNET18, tail(gates, "CBAM"), num_classes
    )


def _resnet50_cbam(gates: str, num_classes: int) -> nn.Module:
    return _resnet(
        _imagenet_stem(), _bottleneck_with_tail, RESNET50, tail(gates, "CBAM"), num_classes
    )


def _resnet50_se(gates: str, num_classes: int) -> nn.Module:
    return _resnet(
        _imagenet_stem(), _bottleneck_with_tail, RESNET50, tail(gates, "SqueezeExcite"), num_classes
    )


NETWORKS: dict[str, Callable[[str, int], nn.Module]] = {
    "vgg16-spatial": _vgg16_spatial,
    "resnet20-cbam-spatial": _resnet20_cbam_spatial,
    "resnet18-cbam-spatial": _resnet18_cbam_spatial,
    "resnet50-gam": _resnet50_gam,
    "resnet18-cbam": _resnet18_cbam,
    "resnet50-cbam": _resnet50_cbam,
    "resnet50-se": _resnet50_se,
}
