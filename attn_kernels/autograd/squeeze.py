import torch

from .. import ops
from ..reference.squeeze import backward, forward
from .differentiable import differentiable, differentiable_backward, saved_by, sees_ops
from .vmap import Fold

squeeze_backward = differentiable_backward(
    "squeeze_backward",
    backward,
    Fold(maps=(0, 1), statistics=(2, 3, 4, 5, 6, 7, 8), is_backward=True),
)
MEAN, VAR = 1, 2  # bits of the argument `statistics`


class Squeeze(torch.autograd.Function):
    """x, statistics -> mean, var, max, min, argmax, argmin."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, statistics = inputs
        mean, _, _, _, argmax, argmin, *_ = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(argmax, argmin)
        has_mean = statistics & VAR and statistics & MEAN
        ctx.save_for_backward(x, mean if has_mean else None, argmax, argmin)

    @staticmethod
    def backward(ctx, *gradients):
        return final_pass(ctx, gradients[:4]), None


def final_pass(ctx, d_statistics, dr=None, scale=None):
    """dx from the gradients of the statistics and of a gate; None if there are none. dr without a
    scale is x's gradient through the gate, made for this: it may be written on.

    The variance's is d_var 2 (x - mean) / pixels: affine in x, as the others are.
    """
    if dr is None and all(d is None for d in d_statistics):
        return None
    x, mean, argmax, argmin = saved_by(ctx, maps=1)
    d_mean, d_var, d_max, d_min = d_statistics
    pixels = x.shape[2] * x.shape[3]
    slope, offset = None, None if d_mean is None else d_mean / pixels
    if d_var is not None:
        if mean is None:
            mean = squeeze(x, MEAN)[0]
        slope = d_var * (2 / pixels)
        offset = -slope * mean if offset is None else offset - slope * mean
    extremes = (None if d_max is None else argmax, d_max, None if d_min is None else argmin, d_min)
    operands = [t if t is None else t.contiguous() for t in (slope, offset, *extremes)]
    if dr is not None and scale is None:
        if all(t is None for t in operands):
            return dr
        if may_write_on(dr, x):
            ops.squeeze_backward_add_(dr, x, *operands)
            return dr
        scale = dr.new_ones(dr.shape[:2], dtype=ops.acc_dtype(dr))
    scale = scale if scale is None else scale.contiguous()
    return squeeze_backward(dr, x, scale, *operands)


def may_write_on(dr, x) -> bool:
    """Where nobody sees a difference but in memory; on CUDA there is no such kernel."""
    return (
        type(dr) is torch.Tensor
        and dr.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not sees_ops()
        and not torch._C._functorch.is_legacy_batchedtensor(dr)  # of a batch of gradients
        and ops.memory_format(dr) == ops.memory_format(x)
    )


squeeze = differentiable("squeeze", Squeeze, forward, Fold(maps=(0,)))
