"""Checks of what users pass: one line that names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from .backends import DTYPES
from .distributed import is_dtensor, register
from .reference.squeeze import STATISTICS
from .reference.squeeze_excite import ACTIVATIONS as MIX_ACTIVATIONS
from .reference.squeeze_excite import GATES

ACTIVATIONS = ("identity", "sigmoid")  # of GAM's gate
EPILOGUES = ("identity", "relu")
_Tensor, _STRIDED = torch.Tensor, torch.strided  # looked up once: every call asks, of all operands
_PLAIN = frozenset((_Tensor, torch.nn.Parameter))  # the classes of almost all operands
_DTYPE_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)


def check_feature_map(name: str, x: torch.Tensor) -> None:
    """A (N, C, H, W) tensor of a supported dtype, with C, H, W >= 1."""
    check_floating(name, x)
    size = x.shape
    if len(size) != 4:
        raise ValueError(f"{name}: expected a 4-dimensional (N, C, H, W) tensor, got {shape(x)}")
    if 0 in size and 0 in size[1:]:
        raise ValueError(f"{name}: expected C, H and W of at least 1, got {shape(x)}")


def check_floating(name: str, t: Any) -> None:
    """A dense tensor of a supported dtype."""
    if type(t) not in _PLAIN:
        if not isinstance(t, _Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(t).__name__}")
        if is_dtensor(t):
            register()
    if t.dtype not in DTYPES:
        raise TypeError(f"{name}: expected one of {_DTYPE_NAMES}, got {t.dtype}")
    if t.layout is not _STRIDED or t.is_nested:
        kind = "nested" if t.is_nested else str(t.layout).removeprefix("torch.").strip("_")
        raise TypeError(f"{name}: expected a dense tensor, got a {kind} one")


def check_same_device(name: str, t: torch.Tensor, x: torch.Tensor) -> None:
    """An operand beside x: on its device, and a DTensor if x is one."""
    if (type(t) not in _PLAIN or type(x) not in _PLAIN) and is_dtensor(t) != is_dtensor(x):
        kinds = ("a plain tensor", "a DTensor")
        raise TypeError(
            f"{name}: expected {kinds[is_dtensor(x)]} (as x), got {kinds[is_dtensor(t)]}"
        )
    if t.device != x.device:
        raise ValueError(f"{name}: expected a tensor on {x.device} (as x), got one on {t.device}")


def check_operand(name: str, t: torch.Tensor, expected: tuple[int, ...], x: torch.Tensor) -> None:
    """A dense floating tensor of the expected shape on x's device."""
    check_floating(name, t)
    if t.shape != expected:
        raise ValueError(f"{name}: expected shape {tuple(expected)}, got {shape(t)}")
    check_same_device(name, t, x)


def check_spatial(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Arguments of spatial attention: weight (1, 2, K, K) with K odd and at most 15, bias (1,)."""
    check_feature_map("x", x)
    check_floating("weight", weight)
    size = weight.shape
    k = size[-1] if size else 0
    if size != (1, 2, k, k):
        raise ValueError(f"weight: expected shape (1, 2, K, K), got {shape(weight)}")
    check_kernel_size("weight", k)
    check_same_device("weight", weight, x)
    if bias is not None:
        check_operand("bias", bias, (1,), x)


def check_view(scale: torch.Tensor | None, shift: torch.Tensor | None, x: torch.Tensor) -> None:
    """An affine view: scale and shift (C,) or (N, C), or None."""
    if scale is None and shift is None:
        return
    for name, t in (("scale", scale), ("shift", shift)):
        if t is not None:
            check_floating(name, t)
            n, c = x.shape[:2]
            if t.shape not in ((c,), (n, c)):
                raise ValueError(f"{name}: expected shape ({c},) or ({n}, {c}), got {shape(t)}")
            check_same_device(name, t, x)


def check_factors(scale: torch.Tensor, shift: torch.Tensor | None, x: torch.Tensor) -> None:
    """scale, and shift or None, of a gate: (C,), (N, C) or (N or 1, C, 1, 1)."""
    given = [("scale", scale)] if shift is None else [("scale", scale), ("shift", shift)]
    for name, t in given:
        check_floating(name, t)
        n, c = x.shape[:2]
        if t.shape not in ((c,), (n, c), (n, c, 1, 1), (1, c, 1, 1)):
            raise ValueError(
                f"{name}: expected shape ({c},), ({n}, {c}) or ({n} or 1, {c}, 1, 1), "
                f"got {shape(t)}"
            )
        check_same_device(name, t, x)


def check_mixed(factors: tuple[Any, ...], x: torch.Tensor, any_dtype: bool) -> None:
    """What a mix returned: scale, or scale and shift, each (N or 1, C, 1, 1) in x's dtype."""
    if len(factors) not in (1, 2):
        raise TypeError(f"mix: expected it to return scale or (scale, shift), got {len(factors)}")
    for name, t in zip(("mix's scale", "mix's shift"), factors, strict=False):
        check_floating(name, t)
        n, c = x.shape[:2]
        if t.shape not in ((n, c, 1, 1), (1, c, 1, 1)):
            raise ValueError(f"{name}: expected shape ({n} or 1, {c}, 1, 1), got {shape(t)}")
        if t.dtype != x.dtype and not any_dtype:
            raise TypeError(f"{name}: expected {x.dtype} (as x), got {t.dtype}")
        check_same_device(name, t, x)


def check_statistics(name: str, statistics: object) -> None:
    """A tuple or list of different statistics, at least one."""
    if not isinstance(statistics, tuple | list):
        raise TypeError(f"{name}: expected a tuple of names, got {statistics!r}")
    if not statistics:
        raise ValueError(f"{name}: expected at least one of {', '.join(STATISTICS)}, got none")
    for statistic in statistics:
        if statistic not in STATISTICS:
            raise ValueError(f"{name}: expected some of {', '.join(STATISTICS)}, got {statistic!r}")
    if len(set(statistics)) < len(statistics):
        raise ValueError(f"{name}: expected each statistic once, got {statistics!r}")


def check_epilogue(residual: torch.Tensor | None, activation: str, x: torch.Tensor) -> None:
    """What a gate ends with: a residual as x, or None, and an activation."""
    if residual is not None:
        check_operand("residual", residual, x.shape, x)
        if residual.dtype != x.dtype:
            raise TypeError(f"residual: expected {x.dtype} (as x), got {residual.dtype}")
    check_one_of("activation", activation, EPILOGUES)


def check_gam(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    activation: str,
) -> None:
    """Arguments of GAM's channel gate: w1 (R, C), b1 (R,), w2 (C, R), b2 (C,), with R >= 1."""
    check_feature_map("x", x)
    check_floating("w1", w1)
    channels = x.shape[1]
    if w1.dim() != 2 or w1.shape[0] < 1 or w1.shape[1] != channels:
        raise ValueError(
            f"w1: expected shape (R, {channels}) with R of at least 1, got {shape(w1)}"
        )
    hidden = w1.shape[0]
    check_same_device("w1", w1, x)
    check_operand("b1", b1, (hidden,), x)
    check_operand("w2", w2, (channels, hidden), x)
    check_operand("b2", b2, (channels,), x)
    check_activation(activation)


def check_squeeze_excite(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor | None,
    w2: torch.Tensor,
    b2: torch.Tensor | None,
    activation: str,
    gate: str,
) -> None:
    """w1 (R, C, 1, 1), b1 (R,) or None, w2 (C, R, 1, 1), b2 (C,) or None, with R >= 1."""
    check_feature_map("x", x)
    check_floating("w1", w1)
    channels = x.shape[1]
    hidden = w1.shape[0] if w1.dim() else 0
    if hidden < 1 or w1.shape != (hidden, channels, 1, 1):
        raise ValueError(
            f"w1: expected shape (R, {channels}, 1, 1) with R of at least 1, got {shape(w1)}"
        )
    check_same_device("w1", w1, x)
    check_operand("w2", w2, (channels, hidden, 1, 1), x)
    for name, b, size in (("b1", b1, hidden), ("b2", b2, channels)):
        if b is not None:
            check_operand(name, b, (size,), x)
    check_one_of("activation", activation, MIX_ACTIVATIONS)
    check_one_of("gate", gate, GATES)


def check_activation(activation: str) -> None:
    check_one_of("activation", activation, ACTIVATIONS)


def check_scale_gate(
    x: torch.Tensor, a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> None:
    """Arguments of the affine gate: a as x, scale and shift (C,)."""
    check_feature_map("x", x)
    size = x.shape
    check_operand("a", a, size, x)
    check_operand("scale", scale, size[1:2], x)
    check_operand("shift", shift, size[1:2], x)


def check_int(name: str, value: object, least: int | None = None) -> None:
    """For constructors: True is no number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_one_of(name: str, value: object, known: Collection[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def check_kernel_size(name: str, k: int) -> None:
    if k % 2 == 0 or not 1 <= k <= 15:
        raise ValueError(f"{name}: expected a kernel size that is odd and from 1 to 15, got {k}")


def shape(t: torch.Tensor) -> str:
    return str(tuple(t.shape))
