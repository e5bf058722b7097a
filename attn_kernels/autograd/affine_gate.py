import torch

from ..reference.affine_gate import forward, sums
from .differentiable import differentiable, differentiable_backward, saved_by
from .squeeze import squeeze_backward
from .vmap import Fold

affine_gate_sums = differentiable_backward(
    "affine_gate_sums", sums, Fold(maps=(0, 1, 2), is_backward=True)
)
FOLD = Fold(maps=(0, 3), statistics=(1, 2))


class AffineGate(torch.autograd.Function):
    """x, scale, shift, residual, activation -> y."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, scale, _, _, activation, *_ = inputs
        ctx.save_for_backward(x, output if activation == "relu" else None, scale)

    @staticmethod
    def backward(ctx, dy):
        x, y, scale = saved_by(ctx, maps=2)
        d_scale, d_shift, d_residual, dr = gate_gradients(ctx, dy, x, y)
        dx = squeeze_backward(dr, x, scale, *[None] * 6) if ctx.needs_input_grad[0] else None
        return dx, d_scale, d_shift, d_residual, None


def gate_gradients(ctx, dy, x, y):
    """d_scale, d_shift and d_residual, where they are asked for; and dr, the gradient of what the
    activation got.
    """
    _, of_scale, of_shift, of_residual, *_ = ctx.needs_input_grad
    d_scale, d_shift, dr = None, None, dy
    if of_scale or of_shift or y is not None:
        d_scale, d_shift, masked = affine_gate_sums(dy, x, y)
        dr = dy if y is None else masked
    return (
        d_scale if of_scale else None,
        d_shift if of_shift else None,
        dr if of_residual else None,
        dr,
    )


affine_gate = differentiable("affine_gate", AffineGate, forward, FOLD)
