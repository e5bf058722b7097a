import torch

from ..reference.squeeze_excite import backward, forward, statistics_backward
from .differentiable import added, differentiable, differentiable_backward, saved_by
from .vmap import Fold

squeeze_excite_backward = differentiable_backward(
    "squeeze_excite_backward",
    backward,
    Fold(
        maps=(0, 1),
        parameters=(2, 3),
        statistics=(4, 5, 6),
        is_backward=True,
        parameter_gradients=4,
    ),
)


class SqueezeExcite(torch.autograd.Function):
    """x, w1, b1, w2, b2, activation, gate -> y, scale, mean, hidden."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w1, b1, w2, b2, *ctx.names = inputs
        _, *statistics = output
        ctx.set_materialize_grads(False)
        ctx.biases = b1 is not None, b2 is not None
        ctx.save_for_backward(x, w1, w2, *statistics)

    @staticmethod
    def backward(ctx, dy, *d_statistics):
        x, *saved = saved_by(ctx, maps=1)
        gradients = [None] * 5
        if dy is not None:
            gradients = squeeze_excite_backward(dy, x, *saved, *ctx.names)
        if any(d is not None for d in d_statistics):  # of a backward that was differentiated
            d_mean, *others = statistics_backward(*d_statistics, *saved, *ctx.names)
            dx = (d_mean / (x.shape[2] * x.shape[3]))[:, :, None, None].expand_as(x).to(x.dtype)
            gradients = [added(a, b) for a, b in zip(gradients, (dx, *others), strict=True)]
        dx, d_w1, d_b1, d_w2, d_b2 = gradients
        has_b1, has_b2 = ctx.biases
        return dx, d_w1, d_b1 if has_b1 else None, d_w2, d_b2 if has_b2 else None, None, None


squeeze_excite = differentiable(
    "squeeze_excite", SqueezeExcite, forward, Fold(maps=(0,), parameters=(1, 2, 3, 4))
)
