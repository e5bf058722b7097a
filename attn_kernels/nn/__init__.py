"""Drop-in modules: the parameters and state_dict keys of the usual eager ones, nothing else."""

from .attentional_fusion import AFF, IAFF
from .bam import BAM
from .cbam import CBAM
from .channel_attention import ChannelAttention
from .channel_se import ChannelSE
from .coordinate_attention import CoordinateAttention
from .efficient_channel_attention import EfficientChannelAttention
from .gam import GAMAttention, GAMChannelGate
from .gsop import GSoP
from .selective_kernel import SelectiveKernel
from .shuffle_attention import ShuffleAttention
from .simam import SimAM
from .spatial_attention import SpatialAttention
from .spatial_channel_se import SpatialChannelSE
from .spatial_gate import SpatialGate
from .spatial_se import SpatialSE
from .split_attention import SplitAttention
from .squeeze_excite import SqueezeExcite
from .tail import Tail

__all__ = [
    "AFF",
    "BAM",
    "CBAM",
    "IAFF",
    "ChannelAttention",
    "ChannelSE",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "GAMAttention",
    "GAMChannelGate",
    "GSoP",
    "SelectiveKernel",
    "ShuffleAttention",
    "SimAM",
    "SpatialAttention",
    "SpatialChannelSE",
    "SpatialGate",
    "SpatialSE",
    "SplitAttention",
    "SqueezeExcite",
    "Tail",
]
