import torch

from .. import functional
from .spatial_attention import SpatialAttention


class SpatialGate(SpatialAttention):
    """Spatial attention applied to its input: ``x * sigmoid(conv1(cat[mean_c(x), max_c(x)]))``.

    (N, C, H, W) -> (N, C, H, W). Parameters and arguments are those of :class:`SpatialAttention`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv1
        return functional.spatial_gate(x, conv.weight, conv.bias)
