"""The same functions in plain PyTorch, differentiable by PyTorch itself: the truth in every test.

They follow the numerical contract to the letter: statistics, convolution and sigmoid in float32
(float64 for float64), one rounding at the end. Beside each function its file has `forward` and
`backward`: the registered ops of the same name, with their arguments and results.
"""

from .channel_pool import channel_pool
from .gam_channel_gate import gam_channel_gate
from .scale_gate import scale_gate
from .spatial_attention import spatial_attention
from .spatial_gate import spatial_gate

__all__ = [
    "channel_pool",
    "gam_channel_gate",
    "scale_gate",
    "spatial_attention",
    "spatial_gate",
]
