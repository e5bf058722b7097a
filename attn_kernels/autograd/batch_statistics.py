import torch
from torch.autograd import forward_ad

from .. import ops


def batch_statistics(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance (biased) and mean of each channel of a, in the accumulate dtype."""
    if forward_ad._current_level >= 0:
        return torch.var_mean(a.to(ops.acc_dtype(a)), (0, 2, 3), correction=0)
    return BatchStatistics.apply(a)


class BatchStatistics(torch.autograd.Function):
    """What torch.var_mean gives, but half maps are not saved in float32, and the backward is one
    affine function of a per channel.
    """

    generate_vmap_rule = True

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
