"""The registered ops, and what `torch.compile` and `torch.export` need to know of them.

The schemas are in csrc/ops.cpp; each op here is called with arguments that `functional` has
checked. The accumulate dtype is float64 for float64 maps and float32 for all others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from .flops import register_formulas
from .libraries import missing


def acc_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype in which statistics, weights and sums are kept."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """The format in which kernels take x and return y: NCHW where x is contiguous, channels_last
    where it is that or part of such a map (channels lie next to each other), else NCHW."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    (_, _, h, w), (_, step, row, column) = x.shape, x.stride()
    in_part = h * w > 1 and step > 0 and (h == 1 or step < row) and (w == 1 or step < column)
    return torch.channels_last if in_part else torch.contiguous_format


def dense(x: torch.Tensor) -> torch.Tensor:
    """x itself if its strides are of one of the two native formats, else a copy in one of them:
    made here it is made once, and not by the forward and the backward op again.
    """
    if torch._C._are_functorch_transforms_active():  # where nobody may ask for strides
        return x
    return x if x.is_contiguous() else x.contiguous(memory_format=memory_format(x))


def parameter(p: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """A weight or bias as the ops take it: contiguous, in the accumulate dtype of x."""
    if p is None:
        return None
    acc = acc_dtype(x)
    if p.dtype != acc:
        p = p.to(acc)
    return p if p.is_contiguous() else p.contiguous()


def either_parameter(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """As `parameter`, but one in x's dtype stays in it: for ops that widen it themselves."""
    if p.dtype != x.dtype:
        p = p.to(acc_dtype(x))
    return p if p.is_contiguous() else p.contiguous()


def _empty_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


def _statistic(x: torch.Tensor, channels: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    n, _, h, w = x.shape
    return x.new_empty((n, channels, h, w), dtype=dtype or acc_dtype(x))


def _accumulated(*parameters: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of parameters: contiguous, in the accumulate dtype."""
    return [x.new_empty(p.shape, dtype=acc_dtype(x)) for p in parameters]


def _of_view(x: torch.Tensor, scale: torch.Tensor | None) -> list[torch.Tensor]:
    """d_scale and d_shift."""
    size = (0,) if scale is None else x.shape[:2]
    return [x.new_empty(size, dtype=acc_dtype(x)) for _ in range(2)]


def _channel_pool(x, scale, shift):
    return _statistic(x, 2, x.dtype)


def _channel_pool_backward(d_pooled, x, scale, shift):
    return _empty_like(x), *_of_view(x, scale)


def _spatial_attention(x, weight, bias, scale, shift):
    return _statistic(x, 1), _statistic(x, 2)


def _spatial_attention_backward(d_map, x, weight, map, pooled, scale, shift):
    d_bias = weight.new_empty(weight.shape[0])
    return _empty_like(x), torch.empty_like(weight), d_bias, *_of_view(x, scale)


def _spatial_gate(x, weight, bias, scale, shift, residual, activation):
    return _empty_like(x), _statistic(x, 1), _statistic(x, 2)


def _spatial_gate_backward(dy, x, weight, map, pooled, scale, shift, y):
    gradients = _spatial_attention_backward(None, x, weight, map, pooled, scale, shift)
    return *gradients, x.new_empty(0) if y is None else _empty_like(x)


def _gam_channel_gate(x, w1, b1, w2, b2, activation):
    n, _, h, w = x.shape
    shape, format = (n, w1.shape[0], h, w), memory_format(x)
    hidden = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=format)
    return _empty_like(x), hidden


def _gam_channel_gate_backward(dy, x, hidden, w1, w2, b2, activation):
    return _empty_like(x), *_accumulated(w1, w1[:, 0], w2, b2, x=x)


def _scale_gate(x, a, scale, shift):
    return _empty_like(x)


def _scale_gate_backward(dy, x, a, scale, shift):
    return _empty_like(x), _empty_like(x), *_accumulated(scale, shift, x=x)


def _per_channel(x, asked_for=True, dtype=None):
    return x.new_empty(x.shape[:2] if asked_for else (0,), dtype=dtype or acc_dtype(x))


def _squeeze(x, statistics):
    values = (_per_channel(x, statistics & bit) for bit in (1, 2, 4, 8))
    return *values, *(_per_channel(x, statistics & bit, torch.int64) for bit in (4, 8))


def _squeeze_backward(dr, x, scale, slope, offset, argmax, d_max, argmin, d_min):
    return _empty_like(x)


def _squeeze_backward_add_(dx, x, slope, offset, argmax, d_max, argmin, d_min):
    return None


def _affine_gate(x, scale, shift, residual, activation):
    return _empty_like(x)


def _affine_gate_sums(dy, x, y):
    dr = x.new_empty(0) if y is None else _empty_like(x)
    return _per_channel(x), _per_channel(x), dr


def _squeeze_excite(x, w1, b1, w2, b2, activation, gate):
    hidden = x.new_empty((x.shape[0], w1.shape[0]), dtype=acc_dtype(x))
    return _empty_like(x), _per_channel(x), _per_channel(x), hidden


def _squeeze_excite_backward(dy, x, w1, w2, scale, mean, hidden, activation, gate):
    return _empty_like(x), *_accumulated(w1, w1[:, 0, 0, 0], w2, w2[:, 0, 0, 0], x=x)


def _squeeze_carried(x, statistics):
    return *_squeeze(x, statistics), *nothing(x)


def _affine_gate_carried(x, scale, shift, residual, activation, token, carrier):
    return _empty_like(x)


def _spatial_gate_carried(x, weight, bias, scale, shift, residual, activation, token, carrier):
    return _spatial_gate(x, weight, bias, scale, shift, residual, activation)


def nothing(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A token, as x, and a carrier, (N, C): zeros expanded from one element."""
    zero, acc = x.new_zeros(()), x.new_zeros((), dtype=acc_dtype(x))
    return zero.expand(x.shape), acc.expand(x.shape[:2])


_FAKE_KERNELS: dict[str, Callable[..., Any]] = {
    "channel_pool": _channel_pool,
    "channel_pool_backward": _channel_pool_backward,
    "spatial_attention": _spatial_attention,
    "spatial_attention_backward": _spatial_attention_backward,
    "spatial_gate": _spatial_gate,
    "spatial_gate_backward": _spatial_gate_backward,
    "gam_channel_gate": _gam_channel_gate,
    "gam_channel_gate_backward": _gam_channel_gate_backward,
    "scale_gate": _scale_gate,
    "scale_gate_backward": _scale_gate_backward,
    "squeeze": _squeeze,
    "squeeze_backward": _squeeze_backward,
    "squeeze_backward_add_": _squeeze_backward_add_,
    "affine_gate": _affine_gate,
    "affine_gate_sums": _affine_gate_sums,
    "squeeze_excite": _squeeze_excite,
    "squeeze_excite_backward": _squeeze_excite_backward,
    "squeeze_carried": _squeeze_carried,
    "affine_gate_carried": _affine_gate_carried,
    "spatial_gate_carried": _spatial_gate_carried,
}

# What other ops make up, whatever the device.
_COMPOSITES: dict[str, Callable[..., Any]] = {
    "squeeze_carried": lambda x, statistics: (
        *torch.ops.attn_kernels.squeeze.default(x, statistics),
        *nothing(x),
    ),
    "affine_gate_carried": lambda *args: torch.ops.attn_kernels.affine_gate.default(*args[:-2]),
    "spatial_gate_carried": lambda *args: torch.ops.attn_kernels.spatial_gate.default(*args[:-2]),
}

# Written in Triton for CUDA devices; triton is imported at the first call.
_TRITON_KERNELS = (
    "gam_channel_gate",
    "gam_channel_gate_backward",
    "scale_gate",
    "scale_gate_backward",
)


def _on_one_device(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The dispatcher picks a kernel by one argument: the others may be anywhere."""

    def guarded(*args):
        devices = [t.device for t in args if isinstance(t, torch.Tensor)]
        for device in devices[1:]:
            if device != devices[0]:
                raise RuntimeError(
                    f"attn_kernels: expected all tensors on one device, got {devices[0]}, {device}"
                )
        return kernel(*args)

    return guarded


def _triton_kernel(name: str):
    def kernel(*args):
        module = importlib.import_module(f"triton_ops.{name.removesuffix('_backward')}")
        return getattr(module, name)(*args)

    return kernel


def __getattr__(name: str) -> Any:
    """Only asked for names that are not here: the ops, when the library could not be loaded."""
    raise AttributeError(f"attn_kernels.ops.{name}: {missing['cpu'] or 'no such op'}")


if missing["cpu"] is None:
    register_formulas()
    for _name, _fake in _FAKE_KERNELS.items():
        torch.library.register_fake(f"attn_kernels::{_name}", _on_one_device(_fake))
        globals()[_name] = getattr(torch.ops.attn_kernels, _name).default
    for _name, _composite in _COMPOSITES.items():
        torch.library.impl(f"attn_kernels::{_name}", "CompositeExplicitAutograd", _composite)
    if missing["triton"] is None:
        for _name in _TRITON_KERNELS:
            torch.library.impl(
                f"attn_kernels::{_name}", "CUDA", _on_one_device(_triton_kernel(_name))
            )
