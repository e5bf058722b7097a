import torch

from .. import reference
from ..reference.scale_gate import backward
from .differentiable import differentiable, differentiable_backward
from .vmap import Fold

scale_gate_backward = differentiable_backward(
    "scale_gate_backward",
    backward,
    Fold(images=(0, 1, 2), parameters=(3, 4), is_backward=True, parameter_gradients=2),
)


class ScaleGate(torch.autograd.Function):
    """x, a, scale, shift -> y."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        x, a, scale, shift = ctx.saved_tensors
        return scale_gate_backward(dy, x, a, scale.contiguous(), shift.contiguous())


scale_gate = differentiable(
    "scale_gate", ScaleGate, reference.scale_gate, Fold(images=(0, 1), parameters=(2, 3))
)
