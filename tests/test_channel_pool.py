import torch
from contract import Contract, MaximumContract, Op
from spatial import eager_pool

import attn_kernels as ak


def opcheck(x, parameters):
    ops = torch.ops.attn_kernels
    return [
        (ops.channel_pool.default, (x, None, None)),
        (ops.channel_pool_backward.default, (ops.channel_pool(x, None, None), x, None, None)),
    ]


class TestChannelPool(Contract, MaximumContract):
    op = Op(
        "channel_pool",
        ak.functional.channel_pool,
        ak.reference.channel_pool,
        eager_pool,
        lambda channels, dtype, device: [],
        opcheck,
        saved_bytes_per_pixel=0,
    )
