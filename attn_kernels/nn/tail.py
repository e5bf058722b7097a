"""The end of a residual block: normalisation, gate, residual and activation as one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import EPILOGUES, check_feature_map, check_one_of, check_operand
from ..functional.operands import product_dtype
from ..functional.squeeze_mix_gate import Statistics, Stencil, View, squeeze_mix_gate
from ..ops import acc_dtype
from ..reference.affine_gate import per_channel
from ..reference.squeeze import STATISTICS
from . import batch_norm
from .bam import BAM
from .cbam import CBAM, cbam_obstacle
from .channel_se import ChannelSE
from .children import is_traced, obstacle, parameter, unfused
from .coordinate_attention import CoordinateAttention
from .efficient_channel_attention import EfficientChannelAttention
from .ending import ended
from .gsop import GSoP
from .spatial_attention import conv_obstacle, stencil
from .spatial_channel_se import SpatialChannelSE
from .spatial_gate import SpatialGate
from .spatial_se import SpatialSE
from .squeeze_excite import SqueezeExcite


class Tail(nn.Module):
    """The tail of a residual block: ``y = tail(z, residual)``.

    ``activation(gate(norm(z)) + residual)``, (N, C, H, W). Batch normalisation is a scale and a
    shift per channel, the gate another, or a map per pixel: norm(z) and gate(norm(z)) are never
    stored, and z's gradient through statistics and gate is one. Parameters: ``norm.*`` and
    ``gate.*``, those of the children, which train, freeze and keep their running statistics as they
    do when they are called.

    Fused are a norm that is None, an `nn.BatchNorm2d` or an `nn.SyncBatchNorm` (here also on the
    CPU), and a gate that is None, :class:`SqueezeExcite`, :class:`EfficientChannelAttention`,
    :class:`ChannelSE`, :class:`SpatialGate`, :class:`CBAM` or :class:`GSoP` (whose first
    convolution reads z once more, and gives it a gradient of its own). With :class:`SpatialSE`,
    :class:`SpatialChannelSE`, :class:`BAM` and :class:`CoordinateAttention` the norm is called, and
    gate, residual and activation are one. Other children, and those
    that are more than their parameters (hooks, adapters), are called, and PyTorch does the rest,
    with the same result; the module's repr says so. So it is in a graph of `torch.fx`, and for a
    residual of another dtype than z.

    Where the norm's weight is 0 all of a channel is equal; which pixel is its maximum then, as only
    that weight's gradient through CBAM's maximum shows, may differ from eager.

    Args:
        norm: the normalisation, or None.
        gate: the gate, or None.
        activation: "relu" or "identity".

    Raises:
        TypeError: norm or gate is neither a module nor None.
        ValueError: the activation is unknown.
    """

    def __init__(
        self, norm: nn.Module | None, gate: nn.Module | None, activation: str = "relu"
    ) -> None:
        super().__init__()
        for name, child in (("norm", norm), ("gate", gate)):
            if child is not None and not isinstance(child, nn.Module):
                raise TypeError(f"{name}: expected a module or None, got {type(child).__name__}")
        check_one_of("activation", activation, EPILOGUES)
        self.register_module("norm", norm)
        self.register_module("gate", gate)
        self.activation = activation

    def forward(self, z: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        norm, gate = self._children()
        if is_traced(z, residual):
            return self._called(z, residual)
        check_feature_map("z", z)
        if residual is not None:
            check_operand("residual", residual, z.shape, z)
        other_dtype = residual is not None and residual.dtype != z.dtype
        if other_dtype or norm_obstacle(norm) is not None or gate_obstacle(gate) is not None:
            return self._called(z, residual)
        if norm is not None and norm.num_features != z.shape[1]:
            channels = norm.num_features
            raise ValueError(f"z: expected {channels} channels (as norm), got {z.shape[1]}")
        parts = Parts() if gate is None else kind_of(gate).parts(gate)
        return tail(z, norm, parts, residual, self.activation)

    def _called(self, z: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        norm, gate = self._children()
        y = z if norm is None else norm(z)
        if not ends_itself(gate) or is_traced(y, residual) or not is_like(residual, y):
            return ended(y if gate is None else gate(y), residual, self.activation)
        return gate.ended(y, residual, self.activation)

    def _children(self) -> tuple[Any, Any]:
        return self.norm, self.gate

    def extra_repr(self) -> str:
        norm, gate = self._children()
        said = unfused(norm=norm_obstacle(norm), gate=gate_obstacle(gate))
        if ends_itself(gate):
            said = "" if norm is None else unfused(norm=f"stands before a {type(gate).__name__}")
        return ", ".join(filter(None, (f"activation={self.activation!r}", said)))


def norm_obstacle(norm: Any) -> str | None:
    """What keeps the norm from being a scale and a shift."""
    if norm is None:
        return None
    synchronised = type(norm) is nn.SyncBatchNorm
    return batch_norm.norm_obstacle(norm, nn.SyncBatchNorm if synchronised else nn.BatchNorm2d)


def gate_obstacle(gate: Any) -> str | None:
    """What keeps the gate from being a scale or a map."""
    if gate is None:
        return None
    kind = kind_of(gate)
    if kind is None:
        return f"is a {type(gate).__name__}"
    return obstacle(gate, kind.cls) or kind.obstacle(gate)


# They take a residual and an activation with them, but no affine function before them.
ENDING = (SpatialSE, SpatialChannelSE, BAM, CoordinateAttention)


def ends_itself(gate: Any) -> bool:
    return type(gate) in ENDING and obstacle(gate, type(gate)) is None


def is_like(residual: torch.Tensor | None, y: torch.Tensor) -> bool:
    return residual is None or (residual.shape, residual.dtype) == (y.shape, y.dtype)


class Parts(NamedTuple):
    """A gate of f = a z + b: the statistics of f that it needs; scale (N, C, 1, 1) from these, each
    (N, C, 1, 1) in z's dtype, and from z, a and b, which may be None; the stencil of its map.
    """

    squeeze: tuple[str, ...] = ()
    mix: Callable[..., torch.Tensor] | None = None
    stencil: Stencil | None = None


def tail(
    z: torch.Tensor, norm: Any, parts: Parts, residual: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """What `Tail` computes where nothing is in the way."""
    squeeze = statistics_for(norm, parts)

    def view(found: Statistics) -> View:
        return view_of(z, found, norm, parts)

    return squeeze_mix_gate(z, squeeze, view, parts.stencil, residual, activation)


def statistics_for(norm: Any, parts: Parts) -> tuple[str, ...]:
    """Those of z. A scale below 0 makes z's minimum the maximum."""
    wanted = set(parts.squeeze)
    if norm is not None:
        wanted |= {"min"} if "max" in wanted else set()
        wanted |= {"mean", "var"} if batch_norm.uses_batch(norm) else set()
    return tuple(name for name in STATISTICS if name in wanted)


def view_of(z: torch.Tensor, found: Statistics, norm: Any, parts: Parts) -> View:
    """Norm and channel gate as one scale and shift."""
    a = b = None
    if norm is not None:
        a, b = batch_norm.batch_norm_affine(norm, z, found if "var" in found else None)
    if parts.mix is None:
        return View(a, b, z.dtype)
    of_f = (statistic(found, name, a, b).to(z.dtype) for name in parts.squeeze)
    scale = parts.mix([t[..., None, None] for t in of_f], z, a, b)
    dtype = product_dtype(z, scale)
    if a is None or b is None:
        return View(scale, None, dtype)
    wide = per_channel(scale).to(acc_dtype(z))
    return View(wide * a, wide * b, dtype)


def statistic(
    found: Statistics, name: str, a: torch.Tensor | None, b: torch.Tensor | None
) -> torch.Tensor:
    """Mean or maximum of a z + b from z's statistics, (N, C)."""
    if a is None or b is None:
        return found[name]
    if name == "mean":
        return torch.addcmul(b, a, found["mean"])
    return torch.addcmul(b, a, torch.where(a > 0, found["max"], found["min"]))


def channel_parts(gate: Any) -> Parts:
    return Parts(gate.squeeze, lambda found, *_: gate.mix(*found))


def spatial_parts(gate: Any) -> Parts:
    return Parts(stencil=stencil(gate.conv1))


def cbam_parts(gate: Any) -> Parts:
    return channel_parts(gate.ca)._replace(stencil=stencil(gate.sa.conv))


def gsop_parts(gate: Any) -> Parts:
    """Its first convolution takes a and b into its weights."""

    def mix(_, z, a, b):
        weight = parameter(gate.conv_for_DR, "weight")
        if a is None:
            return gate.mix(F.conv2d(z, weight))
        matrix = weight.flatten(1).to(a.dtype)
        scaled = (matrix * a).to(weight.dtype).view_as(weight)
        return gate.mix(F.conv2d(z, scaled, (matrix @ b).to(weight.dtype)))

    return Parts(mix=mix)


def gsop_obstacle(gate: Any) -> str | None:
    conv = gate.conv_for_DR
    found = obstacle(conv, nn.Conv2d)
    if found is None and conv.bias is not None:
        found = "has a bias"
    if found is None and (conv.kernel_size, conv.stride, conv.groups) != ((1, 1), (1, 1), 1):
        found = f"is Conv2d({conv.extra_repr()})"
    return None if found is None else f"conv_for_DR {found}"


class Kind(NamedTuple):
    """How gates of a class are taken apart, and what of their children may be in the way."""

    cls: type[nn.Module]
    parts: Callable[[Any], Parts]
    obstacle: Callable[[Any], str | None] = lambda gate: None


KINDS = (
    Kind(SqueezeExcite, channel_parts),
    Kind(EfficientChannelAttention, channel_parts),
    Kind(ChannelSE, channel_parts),
    Kind(GSoP, gsop_parts, gsop_obstacle),
    Kind(SpatialGate, spatial_parts, lambda gate: conv_obstacle(gate.conv1)),
    Kind(CBAM, cbam_parts, cbam_obstacle),
)


def kind_of(gate: Any) -> Any:
    """Of its own class: one that is derived may compute anything."""
    return next((kind for kind in KINDS if isinstance(gate, kind.cls)), None)
