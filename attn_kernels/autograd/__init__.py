"""The ops with their derivatives: what `functional` calls, one function for each op.

An op is differentiable by itself, at the dispatcher: whoever calls `torch.ops.attn_kernels.<op>`
gets the same gradients as a user of the modules. Which path a call takes:

| the call happens in                    | forward         | backward                        |
|----------------------------------------|-----------------|---------------------------------|
| eager mode                             | op              | backward op                     |
| `create_graph=True`, second backward   | op              | backward op; then its formula   |
| `torch.compile`, AOTInductor           | op in the graph | backward op in the graph        |
| `torch.export`, `torch.jit.trace`      | op in the graph | backward op, when it is trained |
| `torch.func.grad, vjp, jacrev`         | op              | backward op; then its formula   |
| `torch.vmap`                           | op, the batch folded into N (see `vmap.py`)       |
| forward mode: `jvp`, `jacfwd`,         | formula         | formula                         |
| `hessian`, `linearize`, `forward_ad`   |                 |                                 |
| `torch.onnx.export(dynamo=True)`       | formula         |                                 |
| `use_backend("reference")`             | formula         | PyTorch's, of the formula       |

"Formula" is the op in PyTorch's own operations, from `attn_kernels.reference`: right for every
derivative there is, but not fused.
"""

from .affine_gate import affine_gate
from .all_reduce import all_reduce
from .batch_statistics import batch_statistics
from .carried import affine_gate_carried, spatial_gate_carried, squeeze_carried
from .channel_pool import channel_pool
from .gam_channel_gate import gam_channel_gate
from .scale_gate import scale_gate
from .spatial_attention import spatial_attention
from .spatial_gate import spatial_gate
from .squeeze import squeeze
from .squeeze_excite import squeeze_excite

__all__ = [
    "affine_gate",
    "affine_gate_carried",
    "all_reduce",
    "batch_statistics",
    "channel_pool",
    "gam_channel_gate",
    "scale_gate",
    "spatial_attention",
    "spatial_gate",
    "spatial_gate_carried",
    "squeeze",
    "squeeze_carried",
    "squeeze_excite",
]
