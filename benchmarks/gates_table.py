"""The README's table of gates: their classes as they are, their traffic by the model."""

from __future__ import annotations

import dataclasses
import inspect

import attn_kernels as ak

from . import traffic


@dataclasses.dataclass(frozen=True)
class Gate:
    name: str
    paper: str
    cls: type
    drop_in_for: str
    op: str = ""  # of traffic.MODELS, where there is one

    def cells(self) -> tuple[str, ...]:
        module = "nn." if self.cls is ak.nn.Tail else ""
        return (
            f"[{self.name}](https://{self.paper})" if self.paper else self.name,
            f"`ak.{module}{self.cls.__name__}{arguments(self.cls)}`",
            self.drop_in_for,
            *(traffic_of(self.op, who) for who in ("ours", "compile", "eager")),
        )


HEADER = ("gate", "class", "drop-in for", "ours", "compile", "eager")
GATES = (
    Gate(
        "spatial attention",
        "arxiv.org/abs/1807.06521",
        ak.SpatialGate,
        "CBAM's second half, `conv1`, with the product",
        "spatial_gate",
    ),
    Gate("its map", "", ak.SpatialAttention, "`SpatialAttention`, `conv1`", "spatial_attention"),
    Gate(
        "CBAM",
        "arxiv.org/abs/1807.06521",
        ak.CBAM,
        "`ca.sharedMLP`, `sa.conv`",
        "cbam",
    ),
    Gate("its channels' map", "", ak.ChannelAttention, "`ChannelAttention`, `sharedMLP`"),
    Gate(
        "SE",
        "arxiv.org/abs/1709.01507",
        ak.SqueezeExcite,
        "timm's `SEModule`, torchvision's `SqueezeExcitation`",
        "squeeze_excite",
    ),
    Gate(
        "ECA",
        "arxiv.org/abs/1910.03151",
        ak.EfficientChannelAttention,
        "timm's `EcaModule`, `eca_layer`",
        "squeeze_excite",
    ),
    Gate(
        "cSE",
        "arxiv.org/abs/1803.02579",
        ak.ChannelSE,
        "`Conv_Squeeze`, `Conv_Excitation`",
        "squeeze_excite",
    ),
    Gate("sSE", "arxiv.org/abs/1803.02579", ak.SpatialSE, "`Conv1x1`", "spatial_se"),
    Gate(
        "scSE",
        "arxiv.org/abs/1803.02579",
        ak.SpatialChannelSE,
        "`cSE`, `sSE`",
        "spatial_channel_se",
    ),
    Gate("GSoP", "arxiv.org/abs/1811.12006", ak.GSoP, "the published block's gate"),
    Gate("BAM", "arxiv.org/abs/1807.06514", ak.BAM, "`BAM`, on maps of any H and W", "bam"),
    Gate(
        "coordinate attention",
        "arxiv.org/abs/2103.02907",
        ak.CoordinateAttention,
        "`CoordAtt`, timm's `CoordAttn` (`bias=False`)",
        "coordinate_attention",
    ),
    Gate(
        "SimAM",
        "proceedings.mlr.press/v139/yang21o.html",
        ak.SimAM,
        "`simam_module`",
        "simam",
    ),
    Gate(
        "shuffle attention",
        "arxiv.org/abs/2102.00240",
        ak.ShuffleAttention,
        "`sa_layer`",
        "shuffle_attention",
    ),
    Gate(
        "selective kernels",
        "arxiv.org/abs/1903.06586",
        ak.SelectiveKernel,
        "timm's `SelectiveKernel`; traffic: the selection between two paths",
        "selective_kernel",
    ),
    Gate(
        "split attention",
        "arxiv.org/abs/2004.08955",
        ak.SplitAttention,
        "timm's `SplitAttn`; traffic: the selection, of x's halves",
        "split_attention",
    ),
    Gate(
        "AFF",
        "arxiv.org/abs/2009.14082",
        ak.AFF,
        "`AFF`; traffic: from the local branch's last norm on",
        "blend",
    ),
    Gate(
        "iterative AFF",
        "arxiv.org/abs/2009.14082",
        ak.IAFF,
        "`iAFF`; traffic: as AFF, twice, and the convolutions between",
        "iterative_blend",
    ),
    Gate("GAM", "arxiv.org/abs/2112.05561", ak.GAMAttention, "`GAM_Attention`"),
    Gate(
        "its channel gate",
        "",
        ak.GAMChannelGate,
        "its linear layers, no permute",
        "gam_channel_gate",
    ),
    Gate(
        "end of a block, with SE",
        "",
        ak.nn.Tail,
        "batch norm, gate, `+ residual`, ReLU",
        "se_tail",
    ),
)
MOST_ARGUMENTS = 6
NOTE = """\
Bytes moved, in multiples of x, forward / backward, by the model of
[benchmarks](benchmarks/README.md#the-traffic-model): nothing cached; planes and smaller hidden maps
are left out."""


def arguments(cls: type) -> str:
    """As they are written: (channels, ratio=16)."""
    parameters = list(inspect.signature(cls).parameters.values())
    bare = [str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters]
    return f"({', '.join(bare if len(bare) <= MOST_ARGUMENTS else [*bare[:2], '...'])})"


def traffic_of(op: str, who: str) -> str:
    if not op:
        return ""
    whole = 400  # GAM's hidden map is a fourth of it
    found = traffic.MODELS[op][who](traffic.Sizes(X=whole, P=0, A=0, I=0, H=whole // 4))
    return f"{found.fwd / whole:g} / {found.bwd / whole:g}"


def section() -> str:
    rows = (HEADER, ("---",) * len(HEADER), *(gate.cells() for gate in GATES))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{NOTE}\n"
