"""Drop-in modules: the parameters and state_dict keys of the usual eager ones, nothing else."""

from .bam import BAM
from .cbam import CBAM
from .channel_attention import ChannelAttention
from .channel_se import ChannelSE
from .coordinate_attention import CoordinateAttention
from .efficient_channel_attention import EfficientChannelAttention
from .gam import GAMAttention, GAMChannelGate
from .gsop import GSoP
from .shuffle_attention import ShuffleAttention
from .simam import SimAM
from .spatial_attention import SpatialAttention
from .spatial_channel_se import SpatialChannelSE
from .spatial_gate import SpatialGate
from .spatial_se import SpatialSE
from .squeeze_excite import SqueezeExcite
from .tail import Tail

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
    "Tail",
]
