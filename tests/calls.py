"""A call of every public function and every module, for tests of what torch does around them."""

import torch
from torch import nn

import attn_kernels as ak

N, C, R, H, W = 2, 4, 3, 6, 5
VIEW = {"scale": (C,), "shift": (C,)}
STENCIL = {"weight": (1, 2, 3, 3), "bias": (1,)}
MLP = {"w1": (R, C), "b1": (R,), "w2": (C, R), "b2": (C,)}
EXCITE = {"w1": (R, C, 1, 1), "b1": (R,), "w2": (C, R, 1, 1), "b2": (C,)}
CROSS = {"a": (1, C, H, 1), "b": (1, C, 1, W)}
POLYNOMIAL = {"p0": (C,), "p1": (C,), "p2": (C,), "center": (C,)}


class Call(nn.Module):
    """`function` of x, of other maps made of x, and of parameters of the given shapes; `listed`: of
    a list of x and so many others made of it in its place.
    """

    def __init__(self, function, shapes, maps=(), listed=0, **settings):
        super().__init__()
        self.function, self.maps, self.settings, self.listed = function, maps, settings, listed
        self.names = list(shapes)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        maps = {name: torch.tanh(x) for name in self.maps}
        parameters = {name: getattr(self, name) for name in self.names}
        first = [x, *(torch.tanh(x) for _ in range(self.listed))] if self.listed else x
        return self.function(first, **maps, **parameters, **self.settings)


class Twice(nn.Module):
    """A module of two maps as one of x."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x, torch.tanh(x))


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
        "broadcast_gate": Call(f.broadcast_gate, {"a": (1, 1, H, W)}, gate="sigmoid", skip=True),
        "broadcast_gate, two": Call(f.broadcast_gate, CROSS, combine="add", **ends),
        "broadcast_squeeze": Call(f.broadcast_squeeze, {}, statistics=("mean", "rows", "columns")),
        "broadcast_squeeze, sum": Call(f.broadcast_squeeze, {"weight": (C,)}, statistics=("sum",)),
        "blend": Call(f.blend, VIEW, maps=["y", "a"]),
        "blend, all": Call(f.blend, VIEW | {"g": (1, C, 1, 1)}, maps=["y", "a"], factor=2),
        "mix": Call(f.mix, {"s": (1, 3, C)}, listed=2, **ends),
        "mix, joined": Call(f.mix, {"s": (1, 2, C // 2)}),
        "mix_squeeze": Call(f.mix_squeeze, {}, listed=1),
        "mix_squeeze, joined": Call(f.mix_squeeze, {}, parts=2),
        "self_gate": Call(f.self_gate, {"p0": (C,)}),
        "self_gate, all": Call(f.self_gate, POLYNOMIAL, groups=2),
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


def composed() -> dict[str, nn.Module]:
    """Modules of which torch.fx sees the parts, so that a traced one is right up to rounding."""
    return {
        "EfficientChannelAttention": ak.EfficientChannelAttention(C),
        "ChannelAttention": ak.ChannelAttention(C, 2),
        "CBAM": ak.CBAM(C, 2, 3),
        "SpatialSE": ak.SpatialSE(C),
        "SpatialChannelSE": ak.SpatialChannelSE(C),
        "BAM": ak.BAM(C, 2),
        "CoordinateAttention": ak.CoordinateAttention(C),
        "ShuffleAttention": ak.ShuffleAttention(C, 2),
        "SimAM": ak.SimAM(),
        "SelectiveKernel": ak.SelectiveKernel(C),
        "SplitAttention": ak.SplitAttention(C),
        "AFF": Twice(ak.AFF(C, 2)),
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
