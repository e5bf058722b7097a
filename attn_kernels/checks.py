"""Checks of what users pass: one line that names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from .backends import DTYPES
from .distributed import is_dtensor, register
from .reference.broadcast_gate import COMBINE
from .reference.broadcast_gate import GATES as BROADCAST_GATES
from .reference.broadcast_squeeze import STATISTICS as BROADCAST_STATISTICS
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


def check_factors(
    scale: torch.Tensor, shift: torch.Tensor | None, x: torch.Tensor, name: str = "scale"
) -> None:
    """scale, and shift or None, of a gate: (C,), (N, C) or (N or 1, C, 1, 1)."""
    given = [(name, scale)] if shift is None else [("scale", scale), ("shift", shift)]
    for name, t in given:
        check_floating(name, t)
        n, c = x.shape[:2]
        if t.shape not in ((c,), (n, c), (n, c, 1, 1), (1, c, 1, 1)):
            raise ValueError(
                f"{name}: expected shape ({c},), ({n}, {c}) or ({n} or 1, {c}, 1, 1), "
                f"got {shape(t)}"
            )
        check_same_device(name, t, x)


def check_coefficients(given: dict[str, Any], x: torch.Tensor) -> None:
    """Of self_gate: the first is there, the others may be None."""
    for i, (name, t) in enumerate(given.items()):
        if t is not None or i == 0:
            check_factors(t, None, x, name=name)


def check_groups(groups: int, x: torch.Tensor) -> None:
    check_int("groups", groups, least=1)
    if x.shape[1] % groups:
        raise ValueError(f"groups: expected a divisor of x's channels ({x.shape[1]}), got {groups}")


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
    check_names(name, statistics, STATISTICS)


def check_moments(name: str, statistics: object) -> None:
    """The mean, the variance, or both."""
    check_names(name, statistics, STATISTICS[:2])


def check_broadcast_statistics(
    name: str, statistics: object, weight: torch.Tensor | None, x: torch.Tensor
) -> None:
    """Different statistics that broadcast to x, and the weight that "sum" needs."""
    names = check_names(name, statistics, BROADCAST_STATISTICS)
    if ("sum" in names) != (weight is not None):
        got = "none" if weight is None else f"one without {name}'s 'sum'"
        raise ValueError(f"weight: expected one for the sum over channels, got {got}")
    if weight is not None:
        check_factors(weight, None, x, name="weight")


def check_names(name: str, statistics: object, known: Collection[str]) -> Collection[str]:
    if not isinstance(statistics, tuple | list):
        raise TypeError(f"{name}: expected a tuple of names, got {statistics!r}")
    if not statistics:
        raise ValueError(f"{name}: expected at least one of {', '.join(known)}, got none")
    for statistic in statistics:
        if statistic not in known:
            raise ValueError(f"{name}: expected some of {', '.join(known)}, got {statistic!r}")
    if len(set(statistics)) < len(statistics):
        raise ValueError(f"{name}: expected each statistic once, got {statistics!r}")
    return statistics


def check_broadcast(name: str, t: torch.Tensor, x: torch.Tensor) -> None:
    """A factor that broadcasts to x."""
    check_floating(name, t)
    if t.dim() != 4 or any(
        size not in (1, of_x) for size, of_x in zip(t.shape, x.shape, strict=True)
    ):
        n, c, h, w = x.shape
        raise ValueError(
            f"{name}: expected a shape ({n} or 1, {c} or 1, {h} or 1, {w} or 1), got {shape(t)}"
        )
    check_same_device(name, t, x)


def check_form(combine: str, gate: str, skip: bool) -> None:
    """What broadcast_gate makes of its factors."""
    check_one_of("combine", combine, COMBINE)
    check_one_of("gate", gate, BROADCAST_GATES)
    check_bool("skip", skip)


def check_mixed_factors(factors: tuple[Any, ...], x: torch.Tensor, any_dtype: bool) -> None:
    """What a mix returned: a, or a and b, which broadcast to x, in x's dtype."""
    if len(factors) not in (1, 2):
        raise TypeError(f"mix: expected it to return a or (a, b), got {len(factors)}")
    for name, t in zip(("mix's a", "mix's b"), factors, strict=False):
        check_broadcast(name, t, x)
        if t.dtype != x.dtype and not any_dtype:
            raise TypeError(f"{name}: expected {x.dtype} (as x), got {t.dtype}")


def check_maps(name: str, x: Any) -> tuple[torch.Tensor, ...]:
    """One map, or a sequence of maps alike."""
    if isinstance(x, _Tensor):
        check_feature_map(name, x)
        return (x,)
    if not isinstance(x, tuple | list):
        raise TypeError(f"{name}: expected a tensor or a list of tensors, got {type(x).__name__}")
    if not x:
        raise ValueError(f"{name}: expected at least one map, got none")
    check_feature_map(f"{name}[0]", x[0])
    for i, t in enumerate(x[1:], 1):
        check_operand(f"{name}[{i}]", t, x[0].shape, x[0])
        if t.dtype != x[0].dtype:
            raise TypeError(f"{name}[{i}]: expected {x[0].dtype} (as {name}[0]), got {t.dtype}")
    return tuple(x)


def check_parts(parts: int, x: torch.Tensor, joined: bool) -> None:
    """How many maps the channels of x are: a divisor of theirs, 1 where maps are separate."""
    check_int("parts", parts, least=1)
    if not joined and parts != 1:
        raise ValueError(f"parts: expected 1 for a list of maps, got {parts}")
    if x.shape[1] % parts:
        raise ValueError(f"parts: expected a divisor of x's channels ({x.shape[1]}), got {parts}")


def check_selection(
    name: str, s: Any, x: torch.Tensor, expected: tuple[int, int] | None, any_dtype: bool = True
) -> None:
    """A factor for each of M maps and C channels; None: of as many maps as divide x's channels."""
    check_floating(name, s)
    (n, channels), size = x.shape[:2], tuple(s.shape)
    if expected is None:
        fits = len(size) > 2 and size[1] * size[2] == channels
        words = f"M, {channels} / M"
    else:
        fits = size[1:3] == expected
        words = f"{expected[0]}, {expected[1]}"
    if not (fits and size[0] in (1, n) and size[3:] in ((), (1, 1))):
        raise ValueError(f"{name}: expected shape ({n} or 1, {words}) or with 1, 1, got {size}")
    if s.dtype != x.dtype and not any_dtype:
        raise TypeError(f"{name}: expected {x.dtype} (as x), got {s.dtype}")
    check_same_device(name, s, x)


def check_blend(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    g: torch.Tensor | None,
    factor: object,
) -> None:
    """Maps x, y and a alike, factors per channel, and a number."""
    check_feature_map("x", x)
    check_operand("y", y, x.shape, x)
    check_operand("a", a, x.shape, x)
    given: dict[str, Any] = {"scale": scale, "shift": shift} | ({} if g is None else {"g": g})
    for name, t in given.items():
        check_factors(t, None, x, name=name)
    if not isinstance(factor, int | float) or isinstance(factor, bool):
        raise TypeError(f"factor: expected a number, got {factor!r}")


def check_epilogue(
    residual: torch.Tensor | None, activation: str, x: torch.Tensor, channels: int | None = None
) -> None:
    """What a gate ends with: a residual as x, or None, and an activation. y may have other channels
    than x.
    """
    if residual is not None:
        size = x.shape if channels is None else (x.shape[0], channels, *x.shape[2:])
        check_operand("residual", residual, size, x)
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
