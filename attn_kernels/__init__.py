"""Fused attention gates for CNNs: the modules you know, at the speed of the memory."""

from . import functional, nn, reference
from ._version import __version__
from .backends import available_backends, use_backend
from .fuse import fuse, unfuse
from .maps import attention_maps
from .nn import (
    BAM,
    CBAM,
    ChannelAttention,
    ChannelSE,
    CoordinateAttention,
    EfficientChannelAttention,
    GAMAttention,
    GAMChannelGate,
    GSoP,
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
    "CBAM",
    "ChannelAttention",
    "ChannelSE",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "GAMAttention",
    "GAMChannelGate",
    "GSoP",
    "ShuffleAttention",
    "SimAM",
    "SpatialAttention",
    "SpatialChannelSE",
    "SpatialGate",
    "SpatialSE",
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
