"""The traffic model: how many bytes each provider moves to and from memory, per op and direction.

Counting rules: every tensor that a kernel reads or writes counts once per kernel; parameters and
what is smaller than a plane count nothing. A kernel's second look at something it has just read
counts too, unless the provider keeps it in cache on purpose: our CPU kernels work on chunks that
fit into the L2 cache, so there `reuse` is true; of our GPU kernels only a measurement can say how
much the L2 cache saved (`--ncu`), so there it is false.

The letters of the derivations:

    X   bytes of the feature map, (N, C, H, W)
    P   bytes of one plane, (N, 1, H, W), in x's dtype
    A   bytes of one plane in the accumulate dtype
    I   bytes of one plane of int64 indices
    H   bytes of GAM's hidden map, (N, C / 4, H, W), in x's dtype
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from .ops import GAM_RATE


@dataclasses.dataclass(frozen=True)
class Sizes:
    X: int
    P: int
    A: int
    I: int  # noqa: E741  the letter of the derivations
    H: int
    reuse: bool = False

    @staticmethod
    def of(shape, dtype: torch.dtype, reuse: bool = False) -> Sizes:
        n, c, h, w = shape
        pixels = n * h * w
        size = dtype.itemsize
        return Sizes(
            X=pixels * c * size,
            P=pixels * size,
            A=pixels * (8 if dtype == torch.float64 else 4),
            I=pixels * 8,
            H=pixels * max(1, c // GAM_RATE) * size,
            reuse=reuse,
        )


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes moved by an inference forward and by a backward."""

    fwd: int
    bwd: int

    def mode(self, mode: str) -> int:
        return {"fwd": self.fwd, "bwd": self.bwd, "full": self.fwd + self.bwd}[mode]


Model = Callable[[Sizes], Traffic]


# ---- The limit: every input read once, every output written once -------------------------------


def gate_limit(s: Sizes) -> Traffic:
    """Forward: read x, write y. Backward: read dy and x, write dx."""
    return Traffic(2 * s.X, 3 * s.X)


def attention_limit(s: Sizes) -> Traffic:
    """Forward: read x, write the map. Backward: read d_map, write dx.

    The backward need not see x: the channel of each maximum could have been kept.
    """
    return Traffic(s.X + s.P, s.X + s.P)


def pool_limit(s: Sizes) -> Traffic:
    """Forward: read x, write mean and max. Backward: read their gradients, write dx."""
    return Traffic(s.X + 2 * s.P, s.X + 2 * s.P)


def scale_limit(s: Sizes) -> Traffic:
    """Forward: read x and a, write y. Backward: read dy, x, a, write dx, da."""
    return Traffic(3 * s.X, 5 * s.X)


def tail_limit(s: Sizes) -> Traffic:
    """Forward: read x and the residual, write y. Backward: read dy, x and y, write dx and the
    residual's gradient."""
    return Traffic(3 * s.X, 5 * s.X)


# ---- Ours --------------------------------------------------------------------------------------


def spatial_gate_ours(s: Sizes) -> Traffic:
    """Forward: pool reads x, writes pooled (2 A); map reads that, writes map; gate reads map and x,
    writes y.

    Backward: d_logit reads dy, x, map and pooled's max, writes d_logit and the int32 argmax (half
    an I); the transposed stencil reads d_logit, writes d_pooled (2 A); d_input reads dy, map,
    d_pooled and argmax, writes dx; d_weight reads d_logit and pooled. With reuse the second x
    (forward) and the second dy (backward) come from the cache, and so does the argmax.
    """
    second = 0 if s.reuse else s.X
    argmax = 0 if s.reuse else s.I
    return Traffic(2 * s.X + second + 6 * s.A, 3 * s.X + second + argmax + 12 * s.A)


def spatial_attention_ours(s: Sizes) -> Traffic:
    """Forward: pool reads x, writes pooled; the convolution reads pooled, writes map: 5 A.

    Backward: d_map and map to d_logit and d_pooled (2 A read, 3 A written); the maximum's channel
    is looked for in x again; dx is written from d_pooled and that; d_weight reads d_logit and
    pooled.
    """
    argmax = 0 if s.reuse else s.I
    return Traffic(s.X + 5 * s.A, 2 * s.X + argmax + 10 * s.A)


def channel_pool_ours(s: Sizes) -> Traffic:
    """Forward is the limit. Backward reads x too, to find the maximum's channel again."""
    argmax = 0 if s.reuse else s.I
    return Traffic(s.X + 2 * s.P, 2 * s.X + argmax + 2 * s.P)


def gam_ours(s: Sizes) -> Traffic:
    """Forward: read x, write hidden, read x again for the product, write y.

    Backward: dx and d_pre from dy (twice), x and hidden; then the weights' gradients from dy, x,
    hidden and d_pre. With reuse a tile is in the cache for all of that: each map is read once.
    """
    if s.reuse:
        return Traffic(2 * s.X + s.H, 3 * s.X + s.H)
    return Traffic(3 * s.X + s.H, 6 * s.X + 4 * s.H)


def squeeze_excite_ours(s: Sizes) -> Traffic:
    """Forward: squeeze reads x; gate reads x, writes y. Backward: the gate's sums read dy and x;
    the final pass reads dy, writes dx. With reuse an image is in the cache for its second look.
    """
    second = 0 if s.reuse else s.X
    return Traffic(2 * s.X + second, 3 * s.X + second)


def cbam_ours(s: Sizes) -> Traffic:
    """The squeeze (X), then spatial_gate of the map as its channel gate scales it. Backward: that
    of spatial_gate, whose second look is at dy and x and which writes dx without the statistics'
    part, and the final pass: reads it, writes dx.
    """
    gate = spatial_gate_ours(s)
    second = 0 if s.reuse else s.X
    return Traffic(s.X + gate.fwd, second + gate.bwd + 2 * s.X)


def se_tail_ours(s: Sizes) -> Traffic:
    """Forward: squeeze (X), gate (x, residual, y). Backward: sums from dy, y and x, which write the
    residual's gradient dr; the final pass: dr and x to dx.
    """
    return Traffic(4 * s.X, 7 * s.X)


def spatial_tail_ours(s: Sizes) -> Traffic:
    """The squeeze (X), then spatial_gate of the norm's view with residual (X). Backward: that of
    spatial_gate, which reads y and writes dr, too, and whose second look is at dr and x; then the
    final pass over dx, for the norm's statistics: dx and x to dx.

    With CBAM's gate it is the same: the squeeze is there already.
    """
    gate = spatial_gate_ours(s)
    second = 0 if s.reuse else s.X
    return Traffic(2 * s.X + gate.fwd, 2 * s.X + second + gate.bwd + 3 * s.X)


# ---- Eager PyTorch: one kernel per line of the module ------------------------------------------


def spatial_gate_eager(s: Sizes) -> Traffic:
    """Forward, 4 X: mean (X, P), max (X, P, I), cat (4 P), conv (3 P), sigmoid (2 P), product
    (2 X, P).

    Backward, 14 X: dy * map (2 X, P); dy * x (3 X) and its sum over channels (X, P); sigmoid (3 P);
    convolution (3 P for the input, 3 P for the weight); max: zero-fill (X) and scatter (2 P, I);
    mean: expand and divide (X, P); two additions of gradients (6 X).
    """
    return Traffic(4 * s.X + 12 * s.P + s.I, 14 * s.X + 14 * s.P + s.I)


def spatial_attention_eager(s: Sizes) -> Traffic:
    """spatial_gate without its product: forward 2 X; backward 5 X, of which one addition is 3 X."""
    return Traffic(2 * s.X + 11 * s.P + s.I, 5 * s.X + 12 * s.P + s.I)


def channel_pool_eager(s: Sizes) -> Traffic:
    """Forward: mean (X, P), max (X, P, I), cat (4 P). Backward: zero-fill (X), scatter (2 P, I),
    mean (X, P), addition (3 X)."""
    return Traffic(2 * s.X + 6 * s.P + s.I, 5 * s.X + 3 * s.P + s.I)


def gam_eager(s: Sizes) -> Traffic:
    """Forward, 8.5 X at H = X / 4: copy of the permuted map (2 X), product (X, H), bias (2 H), ReLU
    (2 H), product (H, X), gate (3 X).

    Backward, 18 X: two products of the gate (6 X), copy of the permuted gradient (2 X), d_hidden
    (X, H), d_w2 (X, H), d_b2 (X), ReLU (3 H), d_b1 (H), dx of the first product (H, X), d_w1
    (H, X), addition (3 X).
    """
    return Traffic(7 * s.X + 6 * s.H, 16 * s.X + 8 * s.H)


def scale_gate_eager(s: Sizes) -> Traffic:
    """Forward: BatchNorm (2 X), sigmoid (2 X), product (3 X). Backward: the product's two (6 X),
    sigmoid (3 X), BatchNorm's sums (2 X) and elementwise part (2 X)."""
    return Traffic(7 * s.X, 13 * s.X)


def squeeze_excite_eager(s: Sizes) -> Traffic:
    """Forward: mean (X), product (2 X). Backward: the product's two (2 X, 3 X) and a sum (X), the
    mean's, expanded and divided (X), addition (3 X)."""
    return Traffic(3 * s.X, 10 * s.X)


def cbam_eager(s: Sizes) -> Traffic:
    """squeeze_excite with a maximum: forward X more; backward a zero-filled map (X) with as many
    entries as the gate has, and an addition (3 X). Then spatial_gate.
    """
    channel, spatial = squeeze_excite_eager(s), spatial_gate_eager(s)
    return Traffic(channel.fwd + s.X + spatial.fwd, channel.bwd + 4 * s.X + spatial.bwd)


def tail_eager(gate: Model) -> Model:
    """Around the gate, forward: BatchNorm (x twice, its result: 3 X), addition (3 X), ReLU (2 X).
    Backward: ReLU (3 X), BatchNorm (sums 2 X, elementwise 3 X).
    """

    def count(s: Sizes) -> Traffic:
        inner = gate(s)
        return Traffic(inner.fwd + 8 * s.X, inner.bwd + 8 * s.X)

    return count


# ---- torch.compile: what its fusion leaves -----------------------------------------------------


def spatial_gate_compile(s: Sizes) -> Traffic:
    """Forward, 3 X: both statistics (X, 2 P), convolution (3 P), sigmoid and product (2 X, P).

    Backward, 6 X: d_logit (2 X, 2 P), convolution (6 P), zero-fill (X), scatter (2 P, I), and the
    sum of the three gradients (dy, scattered, dx: 3 X, 2 P).

    Not counted: on the CPU, PyTorch 2.13's forward of a training call copies x to channels_last for
    the convolution's sake, and gates the copy.
    """
    return Traffic(3 * s.X + 6 * s.P, 6 * s.X + 12 * s.P + s.I)


def spatial_attention_compile(s: Sizes) -> Traffic:
    """Forward: statistics (X, 2 P), convolution (3 P), sigmoid (2 P). Backward: sigmoid (3 P),
    convolution (6 P), zero-fill (X), scatter (2 P, I), sum (2 X, P)."""
    return Traffic(s.X + 7 * s.P, 3 * s.X + 12 * s.P + s.I)


def channel_pool_compile(s: Sizes) -> Traffic:
    """Forward is the limit. Backward: zero-fill (X), scatter (2 P, I), sum (2 X, P)."""
    return Traffic(s.X + 2 * s.P, 3 * s.X + 3 * s.P + s.I)


def gam_compile(s: Sizes) -> Traffic:
    """Forward, 8 X at H = X / 4: permuted copy (2 X), product (X, H), bias and ReLU (2 H), product
    (H, X), bias and gate (3 X).

    Backward, 13.75 X: permuted d_a (3 X), d_hidden (X, H), d_w2 (X, H), d_b2 (X), ReLU (2 H), d_b1
    (H), dx of the first product (H, X), d_w1 (H, X), dy * a plus it (4 X).
    """
    return Traffic(7 * s.X + 4 * s.H, 12 * s.X + 7 * s.H)


def scale_gate_compile(s: Sizes) -> Traffic:
    """Forward is the limit. Backward: dx, da and sigmoid from dy, x and a (6 X); the sums for scale
    and shift from dy, x, a and sigmoid (4 X)."""
    return Traffic(3 * s.X, 10 * s.X)


def squeeze_excite_compile(s: Sizes) -> Traffic:
    """Forward: mean (X), product (2 X). Backward: the gate's gradient from dy and x (2 X), dx from
    dy (2 X)."""
    return Traffic(3 * s.X, 4 * s.X)


def cbam_compile(s: Sizes) -> Traffic:
    """Forward: both statistics over pixels (X), both over channels (X), products (2 X), the planes
    of spatial_gate. Backward: those of spatial_gate but for the last sum (2 X), zero-fill and
    scatter (X); the channel gate's gradient from dy, x and the scattered map (3 X); the maximum's
    zero-fill (X); dx from dy and both scattered maps (4 X).
    """
    planes = 12 * s.P + s.I
    return Traffic(4 * s.X + 6 * s.P, 11 * s.X + planes)


def se_tail_compile(s: Sizes) -> Traffic:
    """Forward: the norm's statistics (X), the mean (X), the rest (x, residual, y: 3 X). Backward:
    the gate's gradient from dy, y and x, the norm's sums from the same (6 X); dx and the residual's
    gradient from the same (5 X).
    """
    return Traffic(5 * s.X, 11 * s.X)


def spatial_tail_compile(s: Sizes) -> Traffic:
    """Forward: the norm's statistics (X), the gate's (X), the rest (3 X). Backward: d_logit from
    dy, y and x (3 X); zero-fill and scatter (X); the norm's sums from dy, y, x and the scattered
    map (4 X); dx and the residual's gradient from the same (6 X).
    """
    return Traffic(5 * s.X + 6 * s.P, 14 * s.X + 12 * s.P + s.I)


def cbam_tail_compile(s: Sizes) -> Traffic:
    """spatial_tail, and forward the statistics over pixels (X). Backward: the channel gate's
    gradient from dy, y, x and the scattered map (4 X), and the maximum's zero-fill (X), which the
    norm's sums and dx read, too (2 X).
    """
    tail = spatial_tail_compile(s)
    return Traffic(tail.fwd + s.X, tail.bwd + 7 * s.X)


MODELS: dict[str, dict[str, Model]] = {
    "spatial_gate": {
        "limit": gate_limit,
        "ours": spatial_gate_ours,
        "eager": spatial_gate_eager,
        "compile": spatial_gate_compile,
    },
    "spatial_attention": {
        "limit": attention_limit,
        "ours": spatial_attention_ours,
        "eager": spatial_attention_eager,
        "compile": spatial_attention_compile,
    },
    "channel_pool": {
        "limit": pool_limit,
        "ours": channel_pool_ours,
        "eager": channel_pool_eager,
        "compile": channel_pool_compile,
    },
    "gam_channel_gate": {
        "limit": gate_limit,
        "ours": gam_ours,
        "eager": gam_eager,
        "compile": gam_compile,
    },
    "scale_gate": {
        "limit": scale_limit,
        "ours": scale_limit,
        "eager": scale_gate_eager,
        "compile": scale_gate_compile,
    },
    "squeeze_excite": {
        "limit": gate_limit,
        "ours": squeeze_excite_ours,
        "eager": squeeze_excite_eager,
        "compile": squeeze_excite_compile,
    },
    "cbam": {
        "limit": gate_limit,
        "ours": cbam_ours,
        "eager": cbam_eager,
        "compile": cbam_compile,
    },
    "se_tail": {
        "limit": tail_limit,
        "ours": se_tail_ours,
        "eager": tail_eager(squeeze_excite_eager),
        "compile": se_tail_compile,
    },
    "spatial_tail": {
        "limit": tail_limit,
        "ours": spatial_tail_ours,
        "eager": tail_eager(spatial_gate_eager),
        "compile": spatial_tail_compile,
    },
    "cbam_tail": {
        "limit": tail_limit,
        "ours": spatial_tail_ours,
        "eager": tail_eager(cbam_eager),
        "compile": cbam_tail_compile,
    },
}

# Bytes kept for the backward beyond the op's own inputs.
SAVED: dict[str, dict[str, Callable[[Sizes], int]]] = {
    # Eager: the maximum's index, cat's result for the convolution, sigmoid's for itself (and for
    # the product). Ours: map and pooled.
    "spatial_gate": {"eager": lambda s: s.I + 3 * s.P, "ours": lambda s: 3 * s.A},
    "spatial_attention": {"eager": lambda s: s.I + 3 * s.P, "ours": lambda s: 3 * s.A},
    # Eager: the index. Ours finds it again.
    "channel_pool": {"eager": lambda s: s.I, "ours": lambda s: 0},
    # Eager: the permuted copy of x, the hidden map, the attention. Ours: the hidden map.
    "gam_channel_gate": {"eager": lambda s: 2 * s.X + s.H, "ours": lambda s: s.H},
    # Eager: sigmoid's result. Ours: nothing.
    "scale_gate": {"eager": lambda s: s.X, "ours": lambda s: 0},
    "squeeze_excite": {"eager": lambda s: 0, "ours": lambda s: 0},
    # Eager: the map between the gates, and what spatial_gate keeps.
    "cbam": {"eager": lambda s: s.X + s.I + 3 * s.P, "ours": lambda s: 3 * s.A},
    # Of every tail y, for the ReLU. Eager: the norm's result, too, and what the gate keeps.
    "se_tail": {"eager": lambda s: 2 * s.X, "ours": lambda s: s.X},
    "spatial_tail": {"eager": lambda s: 2 * s.X + s.I + 3 * s.P, "ours": lambda s: s.X + 3 * s.A},
    "cbam_tail": {"eager": lambda s: 3 * s.X + s.I + 3 * s.P, "ours": lambda s: s.X + 3 * s.A},
}


def who(provider: str) -> str | None:
    """Which model describes a provider."""
    if provider.startswith("ours-") or provider == "compile-ours":
        return "ours"
    if provider in ("compile", "compile-max-autotune"):
        return "compile"
    return {"eager": "eager", "timm": "eager", "limit": "limit"}.get(provider)


def moved(op: str, provider: str, mode: str, shape, dtype: torch.dtype) -> int | None:
    """Modelled bytes, or None for a provider without a model. A copy reads and writes x."""
    reuse = provider == "ours-cpu"
    sizes = Sizes.of(shape, dtype, reuse)
    if provider == "copy":
        return 2 * sizes.X
    model = who(provider)
    return None if model is None else MODELS[op][model](sizes).mode(mode)


def limit(op: str, mode: str, shape, dtype: torch.dtype) -> int:
    """The fewest bytes that any implementation must move."""
    return MODELS[op]["limit"](Sizes.of(shape, dtype)).mode(mode)


def saved(op: str, provider: str, shape, dtype: torch.dtype) -> int | None:
    """Modelled bytes kept for the backward beyond the inputs, or None where there is no model."""
    model = SAVED[op].get(who(provider) or "")
    return None if model is None else model(Sizes.of(shape, dtype))


def in_maps(count: float, shape, dtype: torch.dtype) -> float:
    """Bytes as a multiple of x's."""
    return count / (math.prod(shape) * dtype.itemsize)
