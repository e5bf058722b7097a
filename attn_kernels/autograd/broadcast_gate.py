import torch

from ..reference.broadcast_gate import forward, sums
from .broadcast_squeeze import broadcast_squeeze_backward
from .differentiable import differentiable, differentiable_backward, saved_by
from .vmap import Fold

broadcast_gate_sums = differentiable_backward(
    "broadcast_gate_sums", sums, Fold(maps=(0, 1, 4), statistics=(2, 3), is_backward=True)
)
FOLD = Fold(maps=(0, 3), statistics=(1, 2))


class BroadcastGate(torch.autograd.Function):
    """x, a, b, residual, combine, gate, skip, activation -> y."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, a, b, _, *ctx.settings, activation = inputs[:8]
        ctx.save_for_backward(x, output if activation == "relu" else None, a, b)

    @staticmethod
    def backward(ctx, dy):
        x, y, a, b = saved_by(ctx, maps=4)
        d_a, d_b, d_residual, dr = factor_gradients(ctx, dy, x, y, a, b)
        dx = None
        if ctx.needs_input_grad[0]:
            dx, _ = broadcast_squeeze_backward(dr, x, a, b, *[None] * 5, *ctx.settings)
        return dx, d_a, d_b, d_residual, *[None] * 4


def factor_gradients(ctx, dy, x, y, a, b):
    """d_a, d_b and d_residual, where they are asked for; and dr, the gradient of what the
    activation got.
    """
    _, of_a, of_b, of_residual, *_ = ctx.needs_input_grad
    d_a, d_b, dr = None, None, dy
    if of_a or of_b or y is not None:
        combine, gate, _ = ctx.settings
        d_a, d_b, masked = broadcast_gate_sums(dy, x, a, b, y, combine, gate)
        dr = dy if y is None else masked
    return d_a if of_a else None, d_b if of_b else None, dr if of_residual else None, dr


broadcast_gate = differentiable("broadcast_gate", BroadcastGate, forward, FOLD)
