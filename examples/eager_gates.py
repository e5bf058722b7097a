"""The usual eager gates, as papers' code has them: what attn_kernels' modules stand in for.

Same arguments, same state_dict keys: a checkpoint of one loads into the other with strict=True.
"""

import torch
from torch import nn


class SpatialGate(nn.Module):
    """CBAM's spatial attention times its input: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, kernel_size: int = 7, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.mean(x, dim=1, keepdim=True)
        max, _ = torch.max(x, dim=1, keepdim=True)
        map = torch.sigmoid(self.conv1(torch.cat([mean, max], dim=1)))  # (N, 1, H, W)
        return x * map


class SqueezeExcite(nn.Module):
    """SE: a factor per channel from an MLP on the channels' means, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(mean))))


class ChannelAttention(nn.Module):
    """CBAM's channel map from means and maxima: (N, C, H, W) -> (N, C, 1, 1)."""

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.max_pool = nn.AdaptiveMaxPool2d(1)
        self.sharedMLP = nn.Sequential(
            nn.Conv2d(channels, channels // ratio, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // ratio, channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.sharedMLP(self.avg_pool(x)) + self.sharedMLP(self.max_pool(x)))


class SpatialAttention(nn.Module):
    """CBAM's spatial map: (N, C, H, W) -> (N, 1, H, W)."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.mean(x, dim=1, keepdim=True)
        max, _ = torch.max(x, dim=1, keepdim=True)
        return torch.sigmoid(self.conv(torch.cat([mean, max], dim=1)))


class CBAM(nn.Module):
    """The channel map times the input, then the spatial map times that."""

    def __init__(self, channels: int, ratio: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        self.ca = ChannelAttention(channels, ratio)
        self.sa = SpatialAttention(kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.ca(x)
        return x * self.sa(x)


class Tail(nn.Module):
    """The end of a residual block: normalisation, gate, addition, ReLU."""

    def __init__(self, norm: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.gate = gate

    def forward(self, z: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.gate(self.norm(z)) + residual)


class GAMAttention(nn.Module):
    """GAM: an MLP over the channels of every pixel, then two 7x7 convolutions, each a gate.

    (N, C, H, W) -> (N, C, H, W). `groups` and `channel_shuffle` make the light variant: grouped
    convolutions, and the map's channels shuffled after the sigmoid.
    """

    def __init__(
        self, channels: int, rate: int = 4, groups: int = 1, channel_shuffle: bool = False
    ) -> None:
        super().__init__()
        hidden = channels // rate
        self.channel_attention = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(channels, hidden, 7, padding=3, groups=groups),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 7, padding=3, groups=groups),
            nn.BatchNorm2d(channels),
        )
        self.shuffle = nn.ChannelShuffle(groups) if channel_shuffle else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channel_map = self.channel_attention(x.permute(0, 2, 3, 1))  # (N, H, W, C)
        x = x * channel_map.permute(0, 3, 1, 2)
        return x * self.shuffle(self.spatial_attention(x).sigmoid())
