"""torch.autograd.Functions: which op is the forward, what it saves, which op is the backward.

`map` and `pooled` come out of the forward ops in the accumulate dtype and are not differentiable:
they are what the backward needs beside x. A backward that is itself to be differentiated
(`create_graph=True`, `torch.func.grad`) goes through the reference formula.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import ops, reference

Gradients = tuple[torch.Tensor | None, ...]


def differentiable_backward(
    formula: Callable[..., torch.Tensor],
    inputs: tuple[torch.Tensor | None, ...],
    needs_grad: tuple[bool, ...],
    gradient: torch.Tensor,
) -> Gradients:
    """The gradients of `formula(*inputs)`, differentiable once more."""
    with torch.enable_grad():
        # Aliases: where one input was computed from another, no gradient takes that way here.
        inputs = tuple(None if t is None else t.view_as(t) for t in inputs)
        wanted = [
            t for t, needed in zip(inputs, needs_grad, strict=True) if needed and t is not None
        ]
        output = formula(*inputs)
        found = iter(
            torch.autograd.grad(
                output, wanted, gradient.to(output.dtype), create_graph=True, materialize_grads=True
            )
        )
    return tuple(next(found) if needed else None for needed in needs_grad)


class Function(torch.autograd.Function):
    """What all of ours share."""

    generate_vmap_rule = True

    @classmethod
    def run(cls, *args):
        """apply() without its binding of defaults to the signature, done anew at every call."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return cls.apply(*args)
        return super(torch.autograd.Function, cls).apply(*args)


class ChannelPool(Function):
    """x -> pooled."""

    @staticmethod
    def forward(x):
        return ops.channel_pool(x, None, None)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, d_pooled):
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_backward(
                reference.channel_pool, (x,), ctx.needs_input_grad, d_pooled
            )
        return ops.channel_pool_backward(d_pooled, x, None, None)[0]


class SpatialGate(Function):
    """x, weight, bias -> y, map, pooled."""

    @staticmethod
    def forward(x, weight, bias):
        return ops.spatial_gate(x, weight, bias, None, None, None, "identity")

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.save_for_backward(*inputs, *saved)

    @staticmethod
    def backward(ctx, dy, d_map, d_pooled):
        return spatial_backward(
            ctx,
            dy,
            lambda *tensors: ops.spatial_gate_backward(*tensors, None),
            reference.spatial_gate,
        )


class SpatialAttention(Function):
    """x, weight, bias -> map, pooled; map in the accumulate dtype."""

    @staticmethod
    def forward(x, weight, bias):
        return ops.spatial_attention(x, weight, bias, None, None)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, pooled = output
        ctx.mark_non_differentiable(pooled)
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx, d_map, d_pooled):
        return spatial_backward(
            ctx, d_map, ops.spatial_attention_backward, reference.spatial_attention
        )


def spatial_backward(ctx, gradient, op, formula) -> Gradients:
    """Gradients of x, weight and bias from what both of the above save."""
    x, weight, bias, map, pooled = ctx.saved_tensors
    if torch.is_grad_enabled():
        return differentiable_backward(formula, (x, weight, bias), ctx.needs_input_grad, gradient)
    dx, d_weight, d_bias, *_ = op(gradient, x, weight, map, pooled, None, None)
    return dx, d_weight, None if bias is None else d_bias


class GamChannelGate(Function):
    """x, w1, b1, w2, b2, activation -> y, hidden."""

    @staticmethod
    def forward(x, w1, b1, w2, b2, activation):
        return ops.gam_channel_gate(x, w1, b1, w2, b2, activation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.activation = inputs
        _, hidden = output
        ctx.mark_non_differentiable(hidden)
        ctx.save_for_backward(*tensors, hidden)

    @staticmethod
    def backward(ctx, dy, d_hidden):
        x, w1, b1, w2, b2, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradients = differentiable_backward(
                lambda *tensors: reference.gam_channel_gate(*tensors, ctx.activation),
                (x, w1, b1, w2, b2),
                ctx.needs_input_grad[:-1],
                dy,
            )
        else:
            gradients = ops.gam_channel_gate_backward(dy, x, hidden, w1, b1, w2, b2, ctx.activation)
        return *gradients, None


class ScaleGate(Function):
    """x, a, scale, shift -> y."""

    @staticmethod
    def forward(x, a, scale, shift):
        return ops.scale_gate(x, a, scale, shift)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_backward(reference.scale_gate, inputs, ctx.needs_input_grad, dy)
        return ops.scale_gate_backward(dy, *inputs)


class BatchStatistics(Function):
    """a -> variance (biased) and mean of each channel, in the accumulate dtype.

    What torch.var_mean gives, but half maps are not saved in float32, and the backward is one
    affine function of a per channel.
    """

    @staticmethod
    def forward(a):
        return torch.var_mean(a.to(ops.acc_dtype(a)), (0, 2, 3), correction=0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx, d_var, d_mean):
        a, mean = ctx.saved_tensors
        count = a.numel() // a.shape[1]
        slope = d_var * (2 / count)
        offset = d_mean / count - slope * mean
        return torch.addcmul(offset.view(-1, 1, 1), a, slope.view(-1, 1, 1)).to(a.dtype)
