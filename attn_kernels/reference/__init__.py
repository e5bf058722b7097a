"""The same functions in plain PyTorch, differentiable by PyTorch itself: the truth in every test.

They follow the numerical contract to the letter: statistics, convolution and sigmoid in float32
(float64 for float64), one rounding at the end.
"""

from .affine_gate import affine_gate
from .channel_pool import channel_pool
from .gam_channel_gate import gam_channel_gate
from .scale_gate import scale_gate
from .spatial_attention import spatial_attention
from .spatial_gate import spatial_gate
from .squeeze import squeeze

__all__ = [
    "affine_gate",
    "channel_pool",
    "gam_channel_gate",
    "scale_gate",
    "spatial_attention",
    "spatial_gate",
    "squeeze",
]
