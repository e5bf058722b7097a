"""Fused attention gates for CNNs: the modules you know, at the speed of the memory."""

from . import functional, nn, reference
from ._version import __version__
from .backends import available_backends, use_backend
from .nn import (
    BAM,
    ChannelSE,
    CoordinateAttention,
    EfficientChannelAttention,
    GAMAttention,
    GAMChannelGate,
    ShuffleAttention,
    SimAM,
    SpatialAttention,
    SpatialChannelSE,
    SpatialGate,
    SpatialSE,
    SqueezeExcite,
)

__all__ = [
    "BAM",
    "ChannelSE",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "GAMAttention",
    "GAMChannelGate",
    "ShuffleAttention",
    "SimAM",
    "SpatialAttention",
    "SpatialChannelSE",
    "SpatialGate",
    "SpatialSE",
    "SqueezeExcite",
    "__version__",
    "available_backends",
    "functional",
    "nn",
    "reference",
    "use_backend",
]
