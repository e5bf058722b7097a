"""A call of every public function and every module, for tests of what torch does around them."""

import torch
from torch import nn

import attn_kernels as ak

N, C, R, H, W = 2, 4, 3, 6, 5
VIEW = {"scale": (C,), "shift": (C,)}
STENCIL = {"weight": (1, 2, 3, 3), "bias": (1,)}
MLP = {"w1": (R, C), "b1": (R,), "w2": (C, R), "b2": (C,)}


class Call(nn.Module):
    """`function` of x, of other maps made of x, and of parameters of the given shapes."""

    def __init__(self, function, shapes, maps=(), **settings):
        super().__init__()
        self.function, self.maps, self.settings = function, maps, settings
        self.names = list(shapes)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        maps = {name: torch.tanh(x) for name in self.maps}
        parameters = {name: getattr(self, name) for name in self.names}
        return self.function(x, **maps, **parameters, **self.settings)


EXCITE = {"w1": (R, C, 1, 1), "b1": (R,), "w2": (C, R, 1, 1), "b2": (C,)}


def functions() -> dict[str, nn.Module]:
    f = ak.functional
    ends = {"maps": ["residual"], "activation": "relu"}
    return {
        "channel_pool": Call(f.channel_pool, {}),
        "channel_pool, view": Call(f.channel_pool, VIEW),
        "spatial_attention": Call(f.spatial_attention, STENCIL),
        "spatial_attention, view": Call(f.spatial_attention, STENCIL | VIEW),
        "spatial_gate": Call(f.spatial_gate, {"weight": (1, 2, 7, 7)}),
        "spatial_gate, view": Call(f.spatial_gate, STENCIL | VIEW, **ends),
        "spatial_gate, map": Call(f.spatial_gate, STENCIL, return_map=True),
        "gam_channel_gate": Call(f.gam_channel_gate, MLP),
        "gam_channel_gate, sigmoid": Call(f.gam_channel_gate, MLP, activation="sigmoid"),
        "scale_gate": Call(f.scale_gate, VIEW, maps=["a"]),
        "squeeze_excite": Call(f.squeeze_excite, EXCITE, gate="hardsigmoid"),
        "squeeze": Call(f.squeeze, {}, statistics=("mean", "var", "max", "min")),
        "affine_gate": Call(f.affine_gate, {"scale": (C,)}),
        "affine_gate, shift": Call(f.affine_gate, VIEW, **ends),
    }


def modules() -> dict[str, nn.Module]:
    return {
        "SpatialAttention": ak.SpatialAttention(3, bias=True),
        "SpatialGate": ak.SpatialGate(),
        "GAMChannelGate": ak.GAMChannelGate(C, rate=2),
        "GAMAttention": ak.GAMAttention(C, rate=2),
        "GAMAttention, light": ak.GAMAttention(C, rate=2, groups=2, channel_shuffle=True),
        "SqueezeExcite": ak.SqueezeExcite(C, activation="silu"),
        "ChannelSE": ak.ChannelSE(C),
        "GSoP": ak.GSoP(C, 3),
        "GAMAttention, one map": ak.GAMAttention(C, 1, rate=2),
    }


def channel_gates() -> dict[str, nn.Module]:
    """Not one node to torch.fx, and with it right up to rounding."""
    return {
        "SqueezeExcite": ak.SqueezeExcite(C, R),
        "EfficientChannelAttention": ak.EfficientChannelAttention(C),
        "ChannelSE": ak.ChannelSE(C),
        "ChannelAttention": ak.ChannelAttention(C, 2),
        "CBAM": ak.CBAM(C, 2, 3),
    }


def every() -> dict[str, nn.Module]:
    return functions() | modules()


class All(nn.Module):
    """Many modules of the same x at once."""

    def __init__(self, modules):
        super().__init__()
        self.all = nn.ModuleList(modules)

    def forward(self, x):
        return [module(x) for module in self.all]
