import torch

from ..reference.gam_channel_gate import backward, forward, hidden_backward
from .differentiable import added, differentiable, differentiable_backward, saved_by
from .vmap import Fold

gam_channel_gate_backward = differentiable_backward(
    "gam_channel_gate_backward",
    backward,
    Fold(maps=(0, 1, 2), parameters=(3, 4, 5), is_backward=True, parameter_gradients=4),
)


class GamChannelGate(torch.autograd.Function):
    """x, w1, b1, w2, b2, activation -> y, hidden."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w1, _, w2, b2, ctx.activation = inputs
        _, hidden = output
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, hidden, w1, w2, b2)

    @staticmethod
    def backward(ctx, dy, d_hidden):
        x, hidden, w1, w2, b2 = saved_by(ctx, maps=2)
        gradients = [None] * 5
        if dy is not None:
            gradients = gam_channel_gate_backward(dy, x, hidden, w1, w2, b2, ctx.activation)
        if d_hidden is not None:  # from a backward that was differentiated, and read hidden
            dx, d_w1, d_b1 = hidden_backward(d_hidden, x, hidden, w1)
            more = dx.to(x.dtype), d_w1, d_b1, None, None
            gradients = [added(a, b) for a, b in zip(gradients, more, strict=True)]
        return *gradients, None


gam_channel_gate = differentiable(
    "gam_channel_gate", GamChannelGate, forward, Fold(maps=(0,), parameters=(1, 2, 3, 4)), kept=4
)
