import torch

from ..reference.blend import backward, forward
from .differentiable import differentiable, differentiable_backward, saved_by
from .vmap import Fold

blend_backward = differentiable_backward(
    "blend_backward", backward, Fold(maps=(0, 1, 2, 3), statistics=(4, 5), is_backward=True)
)


class Blend(torch.autograd.Function):
    """x, y, a, scale, shift, factor -> z."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        *operands, ctx.factor = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    def backward(ctx, dz):
        return *blend_backward(dz, *saved_by(ctx, maps=3), ctx.factor), None


blend = differentiable("blend", Blend, forward, Fold(maps=(0, 1, 2), statistics=(3, 4)))
