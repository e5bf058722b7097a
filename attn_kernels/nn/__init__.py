"""Drop-in modules: the parameters and state_dict keys of the usual eager ones, nothing else."""

from .gam import GAMAttention, GAMChannelGate
from .spatial_attention import SpatialAttention
from .spatial_gate import SpatialGate

__all__ = ["GAMAttention", "GAMChannelGate", "SpatialAttention", "SpatialGate"]
