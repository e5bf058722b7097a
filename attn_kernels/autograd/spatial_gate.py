import torch

from ..reference.spatial_gate import backward, forward
from .differentiable import added, differentiable, differentiable_backward, saved_by
from .spatial_attention import statistics_backward
from .vmap import Fold

spatial_gate_backward = differentiable_backward(
    "spatial_gate_backward",
    backward,
    Fold(maps=(0, 1, 7), statistics=(3, 4, 5, 6), parameters=(2,), grouped=True, is_backward=True),
)


class SpatialGate(torch.autograd.Function):
    """x, weight, bias, scale, shift, residual, activation -> y, map, pooled.

    map and pooled are what the backward needs beside x; they are differentiable, so that a second
    derivative finds its way through them.
    """

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, scale, shift, residual, activation, *_ = inputs
        y, map, pooled = output
        ctx.set_materialize_grads(False)
        ctx.has_bias, ctx.has_residual = bias is not None, residual is not None
        y = y if activation == "relu" else None
        ctx.save_for_backward(x, y, weight, map, pooled, scale, shift)

    @staticmethod
    def backward(ctx, dy, d_map, d_pooled):
        x, y, weight, map, pooled, scale, shift = saved_by(ctx, maps=2)
        gradients, d_residual = [None] * 5, None
        if dy is not None:
            *gradients, dr = spatial_gate_backward(dy, x, weight, map, pooled, scale, shift, y)
            if scale is None:
                gradients[3:] = None, None
            if ctx.has_residual:
                d_residual = dy if y is None else dr
        if d_map is not None or d_pooled is not None:
            more = statistics_backward(d_map, d_pooled, x, weight, map, pooled, scale, shift)
            gradients = [added(a, b) for a, b in zip(gradients, more, strict=True)]
        if not ctx.has_bias:
            gradients[2] = None
        return *gradients, d_residual, None


FOLD = Fold(maps=(0, 5), statistics=(3, 4), parameters=(1, 2), grouped=True)
spatial_gate = differentiable("spatial_gate", SpatialGate, forward, FOLD)
