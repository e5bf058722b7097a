"""Fused attention gates for CNNs: the modules you know, at the speed of the memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import functional, nn, reference
from ._version import __version__
from .backends import available_backends, use_backend
from .maps import attention_maps
from .nn import (
    CBAM,
    ChannelAttention,
    ChannelSE,
    EfficientChannelAttention,
    GAMAttention,
    GAMChannelGate,
    GSoP,
    SpatialAttention,
    SpatialGate,
    SqueezeExcite,
)

if TYPE_CHECKING:
    from .fusion import fuse, unfuse

__all__ = [
    "CBAM",
    "ChannelAttention",
    "ChannelSE",
    "EfficientChannelAttention",
    "GAMAttention",
    "GAMChannelGate",
    "GSoP",
    "SpatialAttention",
    "SpatialGate",
    "SqueezeExcite",
    "__version__",
    "attention_maps",
    "available_backends",
    "functional",
    "fuse",
    "nn",
    "reference",
    "unfuse",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """Fusing is imported by whoever fuses: others do not wait for it."""
    if name in ("fuse", "unfuse"):
        return getattr(importlib.import_module(".fusion", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
