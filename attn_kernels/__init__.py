"""Fused attention gates for CNNs: the modules you know, at the speed of the memory."""

from . import functional, nn, reference
from ._version import __version__
from .backends import available_backends, use_backend
from .fuse import fuse, unfuse
from .nn import (
    ChannelSE,
    EfficientChannelAttention,
    GAMAttention,
    GAMChannelGate,
    SpatialAttention,
    SpatialGate,
    SqueezeExcite,
)

__all__ = [
    "ChannelSE",
    "EfficientChannelAttention",
    "GAMAttention",
    "GAMChannelGate",
    "SpatialAttention",
    "SpatialGate",
    "SqueezeExcite",
    "__version__",
    "available_backends",
    "functional",
    "fuse",
    "nn",
    "reference",
    "unfuse",
    "use_backend",
]
