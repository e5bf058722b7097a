"""GAM as it is usually written, for the tests of what replaces it."""

import torch
import torch.nn.functional as F
from torch import nn


def eager_gate(x, w1, b1, w2, b2, activation="identity"):
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    gate = F.linear(torch.relu(F.linear(tokens, w1, b1)), w2, b2)
    gate = gate.view(n, h, w, c).permute(0, 3, 1, 2)
    return x * (torch.sigmoid(gate) if activation == "sigmoid" else gate)


def gam_parameters(channels, dtype, device):
    """w1, b1, w2, b2 that keep every hidden unit on one side of its kink for most pixels, but not
    for all, and the gate away from zero: else rounding decides which gradient is right. Every
    other unit is mostly open, the first one too.
    """
    hidden = max(channels // 4, 1)
    shapes = ((hidden, channels), (hidden,), (channels, hidden), (channels,))
    w1, _, w2, b2 = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    parameters = (
        w1 / (2 * channels**0.5),
        1.5 - 3.0 * (torch.arange(hidden) % 2),
        w2 / (2 * hidden**0.5),
        1 + b2 / 4,
    )
    return [t.to(dtype).to(device) for t in parameters]


def channel_shuffle(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class EagerGAM(nn.Module):
    """The widely copied module, with the light variant's groups and shuffle."""

    def __init__(
        self, channels, out_channels, rate=4, groups=1, shuffle=False, activation="identity"
    ):
        super().__init__()
        hidden = channels // rate
        self.channel_attention = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(channels, hidden, 7, padding=3, groups=groups),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 7, padding=3, groups=groups),
            nn.BatchNorm2d(out_channels),
        )
        self.groups, self.shuffle, self.activation = groups, shuffle, activation

    def forward(self, x):
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        gate = self.channel_attention(tokens).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        x = x * (torch.sigmoid(gate) if self.activation == "sigmoid" else gate)
        map = self.spatial_attention(x).sigmoid()
        return x * (channel_shuffle(map, self.groups) if self.shuffle else map)
