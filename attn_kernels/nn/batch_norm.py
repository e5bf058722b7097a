"""Batch normalisation as the affine function of its map that it is, for kernels that apply it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import distributed, nn

from .. import autograd
from ..ops import acc_dtype
from .children import obstacle, parameter

Norm = nn.BatchNorm2d | nn.SyncBatchNorm


def norm_obstacle(norm: Any, cls: type[nn.Module] = nn.BatchNorm2d) -> str | None:
    """What keeps `batch_norm_affine` from being what this child computes."""
    found = obstacle(norm, cls)
    if found is not None:
        return found
    mean, var = norm.running_mean, norm.running_var
    if (mean is None) != (var is None) or (mean is not None and norm.num_batches_tracked is None):
        return "lacks a buffer"
    return None


def uses_batch(norm: Any) -> bool:
    """Whether the norm takes its statistics from the batch."""
    return norm.training or norm.running_mean is None or norm.running_var is None


@torch.fx.wrap  # for callers that say batch_norm.batch_norm_affine
def batch_norm_affine(
    norm: Norm, a: torch.Tensor, of_images: dict[str, torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and shift (C,) such that norm(a) is a * scale + shift; running statistics are updated
    as norm(a) would. `of_images` has a's "mean" and "var" (N, C), if they are known.
    """
    acc = acc_dtype(a)
    if uses_batch(norm):
        var, mean = batch_statistics(norm, a, of_images)
    else:
        mean, var = (cast(torch.Tensor, t).to(acc) for t in (norm.running_mean, norm.running_var))
    scale = torch.rsqrt(var + norm.eps)
    weight, bias = parameter(norm, "weight"), parameter(norm, "bias")
    if weight is not None:
        scale = scale * weight.to(acc)
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias.to(acc)


def batch_statistics(
    norm: Norm, a: torch.Tensor, of_images: dict[str, torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean of each channel, in training kept in the running ones."""
    channels = a.shape[1]
    count: Any = a.numel() // channels
    group = processes(norm)
    if norm.training and count == 1 and group is None:
        raise ValueError("x: expected more than one value per channel when training, got one")
    tracked = norm.training and norm.track_running_stats
    if tracked and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if count == 0:  # no values: anything finite will do, and there is nothing to keep
        acc = acc_dtype(a)
        var, mean = a.new_ones(channels, dtype=acc), a.new_zeros(channels, dtype=acc)
        if of_images is not None:  # other processes wait for this one's backward
            mean = of_images["mean"].sum(0)
    elif of_images is None:
        var, mean = autograd.batch_statistics(a)
    else:  # exact, where the mean of squares less the square of the mean is not
        between, mean = torch.var_mean(of_images["mean"], 0, correction=0)
        var = of_images["var"].mean(0) + between
    if group is not None:
        var, mean, count = across_processes(var, mean, count, group)
    if tracked and (group is not None or count > 0):
        # The running variance is unbiased.
        update_running(norm, mean.detach(), var.detach() * (count / (count - 1)))
    return var, mean


def processes(norm: Norm) -> Any:
    """The group over which the norm takes its statistics, if it is more than this process."""
    if not (
        isinstance(norm, nn.SyncBatchNorm)
        and norm.training
        and distributed.is_available()
        and distributed.is_initialized()
    ):
        return None
    group = norm.process_group or distributed.group.WORLD
    return group if distributed.get_world_size(group) > 1 else None


def across_processes(
    var: torch.Tensor, mean: torch.Tensor, count: int, group: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Variance, mean and number of values per channel in the batches of all processes: two sums
    over them, so that a large mean costs no digits.
    """
    sums = autograd.all_reduce(torch.cat([mean * count, mean.new_tensor([count])]), group)
    total = sums[-1].detach()
    joint = sums[:-1] / total
    squares = autograd.all_reduce((var + (mean - joint).square()) * count, group)
    return squares / total, joint, total


def update_running(norm: Norm, mean: torch.Tensor, var: torch.Tensor) -> None:
    """As nn.BatchNorm2d: a moving average, or the plain one where momentum is None."""
    share: Any = norm.momentum
    if share is None:
        share = 1 / cast(torch.Tensor, norm.num_batches_tracked).to(mean.dtype)
    for running, batch in ((norm.running_mean, mean), (norm.running_var, var)):
        if running is not None:
            running.add_((batch - running) * share)
