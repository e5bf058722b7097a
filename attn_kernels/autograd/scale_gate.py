import torch

from .. import reference
from ..reference.scale_gate import backward
from .differentiable import differentiable, differentiable_backward, saved_by
from .vmap import Fold

scale_gate_backward = differentiable_backward(
    "scale_gate_backward",
    backward,
    Fold(maps=(0, 1, 2), parameters=(3, 4), is_backward=True, parameter_gradients=2),
)


class ScaleGate(torch.autograd.Function):
    """x, a, scale, shift -> y."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        if dy is None:
            return None, None, None, None
        return scale_gate_backward(dy, *saved_by(ctx, maps=2))


scale_gate = differentiable(
    "scale_gate", ScaleGate, reference.scale_gate, Fold(maps=(0, 1), parameters=(2, 3)), kept=3
)
