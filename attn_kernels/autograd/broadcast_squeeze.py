import torch

from ..reference.broadcast_squeeze import backward, forward
from .differentiable import differentiable, differentiable_backward, saved_by
from .vmap import Fold

broadcast_squeeze_backward = differentiable_backward(
    "broadcast_squeeze_backward",
    backward,
    Fold(maps=(0, 1), statistics=(2, 3, 4, 5, 6, 7, 8), is_backward=True),
)
FOLD = Fold(maps=(0,), statistics=(1,))


class BroadcastSqueeze(torch.autograd.Function):
    """x, weight, statistics -> mean, sum, rows, columns."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, *ctx.settings = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, *gradients):
        return *final_pass(ctx, gradients), None


def final_pass(
    ctx, d_statistics, dr=None, factors=(None, None), settings=("mul", "identity", False)
):
    """dx from the gradients of the statistics and, dr and factors, of a gate; and d_weight. None if
    there are none.
    """
    d_mean, d_sum, d_rows, d_columns = d_statistics
    if dr is None and all(d is None for d in d_statistics):
        return None, None
    x, weight = saved_by(ctx, maps=2)
    weight = None if d_sum is None else weight
    dx, d_weight = broadcast_squeeze_backward(
        dr, x, *factors, weight, d_mean, d_sum, d_rows, d_columns, *settings
    )
    return dx, None if weight is None else d_weight


broadcast_squeeze = differentiable("broadcast_squeeze", BroadcastSqueeze, forward, FOLD)
