from typing import Any

import torch
from torch import nn

from .. import functional
from ..checks import check_int
from .children import obstacle
from .squeeze_excite import pointwise, pointwise_obstacle


class ChannelAttention(nn.Module):
    """CBAM's channel map: ``sigmoid(sharedMLP(mean_hw(x)) + sharedMLP(max_hw(x)))``.

    (N, C, H, W) -> (N, C, 1, 1). Parameters: ``sharedMLP.0.weight`` (R, C, 1, 1) and
    ``sharedMLP.2.weight`` (C, R, 1, 1) with R = C // ratio, as in the published module. The layers
    are called as they are, whatever they have become.

    Args:
        channels: C.
        ratio: how many times fewer the hidden units are.

    Raises:
        TypeError: channels or ratio is no int.
        ValueError: there are no channels, or ratio leaves no hidden unit.

    Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018.
    """

    squeeze = ("mean", "max")

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        check_int("channels", channels, least=1)
        check_int("ratio", ratio, least=1)
        hidden = channels // ratio
        if hidden < 1:
            raise ValueError(f"ratio: expected at most channels ({channels}), got {ratio}")
        self.sharedMLP = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, max = functional.squeeze(x, self.squeeze)
        return self.mix(mean, max)

    def mix(self, mean: torch.Tensor, max: torch.Tensor) -> torch.Tensor:
        mlp: Any = self.sharedMLP
        if not is_plain(mlp):
            return torch.sigmoid(mlp(mean) + mlp(max))
        first, activation, second = mlp
        hidden = activation(pointwise(first, torch.cat([mean, max])))
        logits, n = pointwise(second, hidden), mean.shape[0]
        return torch.sigmoid(logits[:n] + logits[n:])  # chunk(2) would fix N in an exported graph


def is_plain(mlp: Any) -> bool:
    """Whether one call of all its layers is as good as two."""
    return (
        obstacle(mlp, nn.Sequential) is None
        and len(mlp) == 3
        and obstacle(mlp[1], nn.ReLU) is None
        and all(pointwise_obstacle(layer) is None for layer in (mlp[0], mlp[2]))
    )
