"""The same functions in plain PyTorch, differentiable by PyTorch itself: the truth in every test.

They follow the numerical contract to the letter: statistics, convolution and sigmoid in float32
(float64 for float64), one rounding at the end. Beside each function its file has `forward` and
`backward`: the registered ops of the same name, with their arguments and results.
"""

from .affine_gate import affine_gate
from .channel_pool import channel_pool
from .gam_channel_gate import gam_channel_gate
from .scale_gate import scale_gate
from .spatial_attention import spatial_attention
from .spatial_gate import spatial_gate
from .squeeze import squeeze
from .squeeze_excite import squeeze_excite
from .squeeze_gate import squeeze_gate

__all__ = [
    "affine_gate",
    "channel_pool",
    "gam_channel_gate",
    "scale_gate",
    "spatial_attention",
    "spatial_gate",
    "squeeze",
    "squeeze_excite",
    "squeeze_gate",
]
