"""self_gate, and the same with the gradient that its statistics carry (see carried.py)."""

import torch

from .. import ops
from ..reference.self_gate import backward, forward, sums
from ..reference.squeeze import forward as squeeze_formula
from .carried import WithoutToken
from .differentiable import differentiable, differentiable_backward, saved_by
from .squeeze import MEAN, of_moments, squeeze_backward
from .vmap import Fold

self_gate_sums = differentiable_backward(
    "self_gate_sums", sums, Fold(maps=(0, 1), statistics=(2, 3, 4, 5), is_backward=True)
)
self_gate_backward = differentiable_backward(
    "self_gate_backward",
    backward,
    Fold(maps=(0, 1), statistics=(2, 3, 4, 5, 6, 7), is_backward=True),
)
FOLD = Fold(maps=(0,), statistics=(1, 2, 3, 4))


class SelfGate(torch.autograd.Function):
    """x, center, p2, p1, p0, groups -> y."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, center, p2, p1, p0, ctx.groups, *_ = inputs
        ctx.save_for_backward(x, center, p2, p1, p0)

    @staticmethod
    def backward(ctx, dy):
        x, *coefficients = saved_by(ctx, maps=1)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = self_gate_backward(dy, x, *coefficients, None, None, ctx.groups)
        return dx, *coefficient_gradients(ctx, dy, x, *coefficients), None


def coefficient_gradients(ctx, dy, x, center, p2, p1, p0):
    """Of center, p2, p1 and p0, where they are asked for."""
    needed = ctx.needs_input_grad[1:5]
    if not any(needed):
        return (None,) * 4
    d_p2, d_p1, d_p0 = self_gate_sums(dy, x, center, p2, p1, p0, ctx.groups)
    d_center = None
    if needed[0]:
        d_center = torch.zeros_like(d_p0) if p1 is None else -p1 * d_p0
        d_center = d_center if p2 is None else d_center - 2 * p2 * d_p1
    found = (d_center, d_p2, d_p1, d_p0)
    return tuple(d if wanted else None for d, wanted in zip(found, needed, strict=True))


class SelfSqueezeCarried(torch.autograd.Function):
    """x, statistics, groups -> mean, var, token, four carriers."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, statistics, ctx.groups = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[0] if statistics & MEAN else None)

    @staticmethod
    def backward(ctx, d_mean, d_var, dy, *coefficients):
        x, mean = saved_by(ctx, maps=1)
        moments = (t if t is None else t.contiguous() for t in of_moments(x, mean, d_mean, d_var))
        if dy is None:
            dx = squeeze_backward(None, x, None, *moments, *[None] * 4)
        else:
            dx = self_gate_backward(dy, x, *coefficients, *moments, ctx.groups)
        return dx, None, None


class SelfGateCarried(SelfGate):
    """x, center, p2, p1, p0, groups, token, four carriers -> y."""

    @staticmethod
    def backward(ctx, dy):
        x, *coefficients = saved_by(ctx, maps=1)
        gradients = coefficient_gradients(ctx, dy, x, *coefficients)
        carried = (dy, *coefficients) if ctx.needs_input_grad[6] else (None,) * 5
        return None, *gradients, None, *carried


self_gate = differentiable("self_gate", SelfGate, forward, FOLD)
self_squeeze_carried = differentiable(
    "self_squeeze_carried",
    SelfSqueezeCarried,
    lambda x, statistics, groups: (
        *squeeze_formula(x, statistics)[:2],
        *ops.nothing_for_self_gate(x),
    ),
    Fold(maps=(0,)),
)
self_gate_carried = differentiable(
    "self_gate_carried",
    SelfGateCarried,
    lambda *operands: forward(*operands[:6]),
    WithoutToken("self_gate", 6, FOLD),
)
