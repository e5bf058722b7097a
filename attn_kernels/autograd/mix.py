"""mix and its squeeze, and the same with the gradient that they carry (see carried.py)."""

import torch

from .. import ops
from ..reference.mix import backward, forward, squeeze, sums
from .carried import WithoutToken
from .differentiable import differentiable, differentiable_backward, saved_by
from .vmap import Fold

mix_sums = differentiable_backward(
    "mix_sums", sums, Fold(maps=(0, 1, 2, 3, 4, 5), is_backward=True)
)
mix_backward = differentiable_backward(
    "mix_backward", backward, Fold(maps=(0, 1), statistics=(2, 3), is_backward=True)
)
FOLD = Fold(maps=(0, 1, 2, 3, 5), statistics=(4,))


class Mix(torch.autograd.Function):
    """x, x1, x2, x3, s, residual, activation -> y."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, s, _, activation = inputs[:7]
        ctx.save_for_backward(*tensors, output if activation == "relu" else None, s)

    @staticmethod
    def backward(ctx, dy):
        *tensors, y, s = saved_by(ctx, maps=5)
        d_s, d_residual, dr = gate_gradients(ctx, dy, tensors, y, s)
        d_tensors = (None,) * 4
        if any(ctx.needs_input_grad[:4]):
            count = sum(t is not None for t in tensors)
            parts = tensors[0].shape[1] // s.shape[2]
            d_tensors = to_maps(dr, tensors[0], s, None, count, parts)
        return *d_tensors, d_s, d_residual, None


def gate_gradients(ctx, dy, tensors, y, s):
    """d_s and d_residual, where they are asked for; and dr, the gradient of what the activation
    got.
    """
    of_s, of_residual = ctx.needs_input_grad[4:6]
    d_s, dr = None, dy
    if of_s or y is not None:
        d_s, masked = mix_sums(dy, *tensors, y, tensors[0].shape[1] // s.shape[2])
        dr = dy if y is None else masked
    return d_s if of_s else None, dr if of_residual else None, dr


def to_maps(dr, x, s, offset, count, parts):
    """The gradients of `count` tensors as x, and None for what is left of four."""
    found = mix_backward(dr, x, s, offset, count, parts)
    return *found[:count], *(None,) * (4 - count)


class MixSqueeze(torch.autograd.Function):
    """x, x1, x2, x3, parts -> mean."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.parts = inputs
        ctx.count = sum(t is not None for t in tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(tensors[0])  # for its shape and format

    @staticmethod
    def backward(ctx, d_mean):
        return *final_pass(ctx, d_mean), None


def final_pass(ctx, d_mean, dr=None, s=None):
    """The gradients of the maps from those of the mean and of a gate; None if there are none."""
    if d_mean is None and dr is None:
        return (None,) * 4
    (x,) = saved_by(ctx, maps=1)
    offset = None if d_mean is None else (d_mean / (x.shape[2] * x.shape[3])).contiguous()
    return to_maps(dr, x, None if s is None else s.contiguous(), offset, ctx.count, ctx.parts)


class MixSqueezeCarried(MixSqueeze):
    """x, x1, x2, x3, parts -> mean, token, carrier."""

    @staticmethod
    def backward(ctx, d_mean, dr, s):
        return *final_pass(ctx, d_mean, dr, s), None


class MixCarried(Mix):
    """x, x1, x2, x3, s, residual, activation, token, carrier -> y."""

    @staticmethod
    def backward(ctx, dy):
        *tensors, y, s = saved_by(ctx, maps=5)
        d_s, d_residual, dr = gate_gradients(ctx, dy, tensors, y, s)
        carried = (dr, s) if ctx.needs_input_grad[7] else (None, None)
        return *(None,) * 4, d_s, d_residual, None, *carried


mix = differentiable("mix", Mix, forward, FOLD)
mix_squeeze = differentiable("mix_squeeze", MixSqueeze, squeeze, Fold(maps=(0, 1, 2, 3)))
mix_squeeze_carried = differentiable(
    "mix_squeeze_carried",
    MixSqueezeCarried,
    lambda x, *others: (squeeze(x, *others), *ops.nothing_for_mix(x, *others)),
    Fold(maps=(0, 1, 2, 3)),
)
mix_carried = differentiable(
    "mix_carried",
    MixCarried,
    lambda *operands: forward(*operands[:7]),
    WithoutToken("mix", 7, FOLD),
)
