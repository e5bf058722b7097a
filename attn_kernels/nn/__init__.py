"""Drop-in modules: the parameters and state_dict keys of the usual eager ones, nothing else."""

from .cbam import CBAM
from .channel_attention import ChannelAttention
from .channel_se import ChannelSE
from .efficient_channel_attention import EfficientChannelAttention
from .gam import GAMAttention, GAMChannelGate
from .gsop import GSoP
from .spatial_attention import SpatialAttention
from .spatial_gate import SpatialGate
from .squeeze_excite import SqueezeExcite
from .tail import Tail

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
    "Tail",
]
