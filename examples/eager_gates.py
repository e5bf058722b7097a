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
