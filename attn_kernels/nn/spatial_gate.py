from typing import Any

import torch

from .. import functional
from .children import parameter
from .spatial_attention import SpatialAttention, conv_obstacle


class SpatialGate(SpatialAttention):
    """Spatial attention applied to its input: ``x * sigmoid(conv1(cat[mean_c(x), max_c(x)]))``.

    (N, C, H, W) -> (N, C, H, W). Parameters and arguments are those of :class:`SpatialAttention`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv: Any = self._modules["conv1"]
        if conv_obstacle(conv) is None:
            return functional.spatial_gate(x, parameter(conv, "weight"), parameter(conv, "bias"))
        return x * super().forward(x)
