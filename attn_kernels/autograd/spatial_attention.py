import builtins

import torch

from ..reference.spatial_attention import backward, forward
from .channel_pool import channel_pool_backward
from .differentiable import added, differentiable, differentiable_backward, saved_by
from .vmap import Fold

spatial_attention_backward = differentiable_backward(
    "spatial_attention_backward",
    backward,
    Fold(maps=(0, 1), statistics=(3, 4, 5, 6), parameters=(2,), grouped=True, is_backward=True),
)


class SpatialAttention(torch.autograd.Function):
    """x, weight, bias, scale, shift -> map, pooled, in the accumulate dtype."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, scale, shift = inputs
        ctx.set_materialize_grads(False)
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight, *output, scale, shift)

    @staticmethod
    def backward(ctx, d_map, d_pooled):
        dx, d_weight, d_bias, d_scale, d_shift = statistics_backward(
            d_map, d_pooled, *saved_by(ctx, maps=1)
        )
        return dx, d_weight, d_bias if ctx.has_bias else None, d_scale, d_shift


def statistics_backward(d_map, d_pooled, x, weight, map, pooled, scale, shift):
    """Gradients of x, weight, bias, scale and shift from those of map and pooled.

    A gradient of pooled comes from a backward that was differentiated, and read it.
    """
    of_map, of_pooled = (None,) * 5, (None,) * 3
    if d_map is not None:
        of_map = spatial_attention_backward(d_map, x, weight, map, pooled, scale, shift)
    if d_pooled is not None:
        of_pooled = channel_pool_backward(d_pooled, x, scale, shift)
    dx, d_weight, d_bias, *d_view = of_map
    dx = added(dx, of_pooled[0])
    if scale is None:
        return dx, d_weight, d_bias, None, None
    return dx, d_weight, d_bias, *builtins.map(added, d_view, of_pooled[1:])


spatial_attention = differentiable(
    "spatial_attention",
    SpatialAttention,
    forward,
    Fold(maps=(0,), statistics=(3, 4), parameters=(1, 2), grouped=True),
)
