"""Public functions: each checks its arguments, honours autocast and calls the backend that serves.

All of them take x as (N, C, H, W) in float32, float16, bfloat16 or float64, in any strides
(contiguous and channels_last are native, others are copied once), and return results in x's dtype
and memory format. Parameters may have another floating dtype than x: they are used in float32
(float64 for float64 maps) unless said otherwise. Under autocast results have the dtype that the
eager module would give.

Each is one node for `torch.fx` and one call for `__torch_function__`, but for `squeeze_gate`, which
is the nodes of its mix between two. Derivatives of every kind and order, forward mode and
`torch.func` included, are said in `attn_kernels.autograd`.
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
