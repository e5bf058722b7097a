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


MODELS: dict[str, dict[str, Callable[[Sizes], Traffic]]] = {
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
}


def who(provider: str) -> str | None:
    """Which model describes a provider."""
    if provider.startswith("ours-"):
        return "ours"
    if provider.startswith("compile"):
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
