"""Batch normalisation as the affine function of its map that it is, for kernels that apply it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from .. import autograd
from ..ops import acc_dtype
from .children import obstacle, parameter


def norm_obstacle(norm: Any) -> str | None:
    """What keeps `batch_norm_affine` from being what this child computes."""
    found = obstacle(norm, nn.BatchNorm2d)
    if found is not None:
        return found
    mean, var = norm.running_mean, norm.running_var
    if (mean is None) != (var is None) or (mean is not None and norm.num_batches_tracked is None):
        return "lacks a buffer"
    return None


@torch.fx.wrap  # for callers that say batch_norm.batch_norm_affine
def batch_norm_affine(norm: nn.BatchNorm2d, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and shift (C,) such that norm(a) is a * scale + shift; running statistics are updated
    as norm(a) would.
    """
    acc = acc_dtype(a)
    if norm.training or norm.running_mean is None or norm.running_var is None:
        var, mean = batch_statistics(norm, a)
    else:
        var, mean = norm.running_var.to(acc), norm.running_mean.to(acc)
    scale = torch.rsqrt(var + norm.eps)
    weight, bias = parameter(norm, "weight"), parameter(norm, "bias")
    if weight is not None:
        scale = scale * weight.to(acc)
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias.to(acc)


def batch_statistics(norm: nn.BatchNorm2d, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean of each channel, in training kept in the running ones."""
    channels = a.shape[1]
    count = a.numel() // channels
    if norm.training and count == 1:
        raise ValueError("x: expected more than one value per channel when training, got one")
    tracked = norm.training and norm.track_running_stats
    if tracked and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if count == 0:  # no values: anything finite will do, and there is nothing to keep
        acc = acc_dtype(a)
        return a.new_ones(channels, dtype=acc), a.new_zeros(channels, dtype=acc)
    var, mean = autograd.batch_statistics(a)
    if tracked:
        # The running variance is unbiased.
        update_running(norm, mean.detach(), var.detach() * (count / (count - 1)))
    return var, mean


def update_running(norm: nn.BatchNorm2d, mean: torch.Tensor, var: torch.Tensor) -> None:
    """As nn.BatchNorm2d: a moving average, or the plain one where momentum is None."""
    share: Any = norm.momentum
    if share is None:
        share = 1 / cast(torch.Tensor, norm.num_batches_tracked).to(mean.dtype)
    for running, batch in ((norm.running_mean, mean), (norm.running_var, var)):
        if running is not None:
            running.add_((batch - running) * share)
