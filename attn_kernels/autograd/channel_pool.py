import torch

from .. import reference
from ..reference.channel_pool import backward
from .differentiable import differentiable, differentiable_backward, saved_by
from .vmap import Fold

channel_pool_backward = differentiable_backward(
    "channel_pool_backward", backward, Fold(maps=(0, 1), statistics=(2, 3), is_backward=True)
)


class ChannelPool(torch.autograd.Function):
    """x, scale, shift -> pooled."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, d_pooled):
        x, scale, shift = saved_by(ctx, maps=1)
        dx, d_scale, d_shift = channel_pool_backward(d_pooled, x, scale, shift)
        return (dx, None, None) if scale is None else (dx, d_scale, d_shift)


channel_pool = differentiable(
    "channel_pool", ChannelPool, reference.channel_pool, Fold(maps=(0,), statistics=(1, 2))
)
