from typing import Any

import torch

from .. import functional
from .spatial_attention import SpatialAttention, conv_obstacle, stencil


class SpatialGate(SpatialAttention):
    """Spatial attention applied to its input: ``x * sigmoid(conv1(cat[mean_c(x), max_c(x)]))``.

    (N, C, H, W) -> (N, C, H, W). Parameters and arguments are those of :class:`SpatialAttention`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv: Any = self._modules[self.key]
        if conv_obstacle(conv) is None:
            return functional.spatial_gate(x, *stencil(conv))
        return x * super().forward(x)
