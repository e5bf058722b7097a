"""The registered ops, and what `torch.compile` and `torch.export` need to know of them.

The schemas are in csrc/ops.cpp; each op here is called with arguments that `functional` has
checked. The accumulate dtype is float64 for float64 maps and float32 for all others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from .libraries import missing


def acc_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype in which statistics, weights and sums are kept."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """The format in which kernels take x and return y: NCHW unless x is channels_last only."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def dense(x: torch.Tensor) -> torch.Tensor:
    """x itself if its strides are of one of the two native formats, else a copy in NCHW."""
    return x.contiguous(memory_format=memory_format(x))


def parameter(p: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """A weight or bias as the ops take it: contiguous, in the accumulate dtype of x."""
    if p is None:
        return None
    acc = acc_dtype(x)
    return (p if p.dtype == acc else p.to(acc)).contiguous()


def either_parameter(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """As `parameter`, but one in x's dtype stays in it: for ops that widen it themselves."""
    acc = acc_dtype(x)
    return (p if p.dtype in (acc, x.dtype) else p.to(acc)).contiguous()


def _empty_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


def _statistic(x: torch.Tensor, channels: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    n, _, h, w = x.shape
    return x.new_empty((n, channels, h, w), dtype=dtype or acc_dtype(x))


def _channel_pool(x):
    return _statistic(x, 2, x.dtype)


def _channel_pool_backward(d_pooled, x):
    return _empty_like(x)


def _spatial_gate(x, weight, bias):
    return _empty_like(x), _statistic(x, 1), _statistic(x, 2)


def _spatial_attention(x, weight, bias):
    return _statistic(x, 1), _statistic(x, 2)


def _spatial_backward(gradient, x, weight, map, pooled):
    return _empty_like(x), torch.empty_like(weight), weight.new_empty(1)


def _gam_channel_gate(x, w1, b1, w2, b2, activation):
    n, _, h, w = x.shape
    shape, format = (n, w1.shape[0], h, w), memory_format(x)
    hidden = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=format)
    return _empty_like(x), hidden


def _gam_channel_gate_backward(dy, x, hidden, w1, b1, w2, b2, activation):
    return _empty_like(x), *(torch.empty_like(p, dtype=acc_dtype(x)) for p in (w1, b1, w2, b2))


def _scale_gate(x, a, scale, shift):
    return _empty_like(x)


def _scale_gate_backward(dy, x, a, scale, shift):
    acc = acc_dtype(x)
    gradients = (torch.empty_like(p, dtype=acc) for p in (scale, shift))
    return _empty_like(x), _empty_like(x), *gradients


def _per_channel(x, asked_for=True, dtype=None):
    return x.new_empty(x.shape[:2] if asked_for else (0,), dtype=dtype or acc_dtype(x))


def _squeeze(x, statistics):
    values = (_per_channel(x, statistics & bit) for bit in (1, 2, 4, 8))
    return *values, *(_per_channel(x, statistics & bit, torch.int64) for bit in (4, 8))


def _squeeze_backward(dr, x, scale, slope, offset, argmax, d_max, argmin, d_min):
    return _empty_like(x)


def _affine_gate(x, scale, shift, residual, activation):
    return _empty_like(x)


def _affine_gate_sums(dy, x, y):
    dr = x.new_empty(0) if y is None else _empty_like(x)
    return _per_channel(x), _per_channel(x), dr


_FAKE_KERNELS: dict[str, Callable[..., Any]] = {
    "channel_pool": _channel_pool,
    "channel_pool_backward": _channel_pool_backward,
    "spatial_gate": _spatial_gate,
    "spatial_gate_backward": _spatial_backward,
    "spatial_attention": _spatial_attention,
    "spatial_attention_backward": _spatial_backward,
    "gam_channel_gate": _gam_channel_gate,
    "gam_channel_gate_backward": _gam_channel_gate_backward,
    "scale_gate": _scale_gate,
    "scale_gate_backward": _scale_gate_backward,
    "squeeze": _squeeze,
    "squeeze_backward": _squeeze_backward,
    "affine_gate": _affine_gate,
    "affine_gate_sums": _affine_gate_sums,
}

# Written in Triton for CUDA devices; triton is imported at the first call.
_TRITON_KERNELS = (
    "gam_channel_gate",
    "gam_channel_gate_backward",
    "scale_gate",
    "scale_gate_backward",
)


def _triton_kernel(name: str):
    def kernel(*args):
        module = importlib.import_module(f"triton_ops.{name.removesuffix('_backward')}")
        return getattr(module, name)(*args)

    return kernel


def __getattr__(name: str) -> Any:
    """Only asked for names that are not here: the ops, when the library could not be loaded."""
    raise AttributeError(f"attn_kernels.ops.{name}: {missing['cpu'] or 'no such op'}")


if missing["cpu"] is None:
    for _name, _fake in _FAKE_KERNELS.items():
        torch.library.register_fake(f"attn_kernels::{_name}", _fake)
        globals()[_name] = getattr(torch.ops.attn_kernels, _name).default
    if missing["triton"] is None:
        for _name in _TRITON_KERNELS:
            torch.library.impl(f"attn_kernels::{_name}", "CUDA", _triton_kernel(_name))
