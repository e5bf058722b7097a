from typing import Any

import torch
from torch import distributed


def all_reduce(t: torch.Tensor, group: Any) -> torch.Tensor:
    """The sum of t over the processes of the group, and as its gradient the sum of theirs."""
    return AllReduce.apply(t, group)


class AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t, group):
        ctx.group = group
        total = t.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, d_total):
        return all_reduce(d_total, ctx.group), None
