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
    H   bytes of GAM's hidden map, or of AFF's, (N, C / 4, H, W), in x's dtype
    B   bytes of BAM's hidden map, (N, C / 16, H, W), in x's dtype
    R   bytes of one value for each row, (N, C, H, 1), in x's dtype
    K   bytes of one value for each column, (N, C, 1, W), in x's dtype
    M   bytes of coordinate attention's hidden units of rows and columns, (N, C / 32, H + W, 1)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from .ops import GAM_RATE, bam_hidden, coordinate_hidden


@dataclasses.dataclass(frozen=True)
class Sizes:
    X: int
    P: int
    A: int
    I: int  # noqa: E741  the letter of the derivations
    H: int
    B: int = 0
    R: int = 0
    K: int = 0
    M: int = 0
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
            B=pixels * bam_hidden(c) * size,
            R=n * c * h * size,
            K=n * c * w * size,
            M=n * coordinate_hidden(c) * (h + w) * size,
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


def selective_limit(s: Sizes) -> Traffic:
    """Forward: read both maps, write y. Backward: read dy and them, write their gradients."""
    return Traffic(3 * s.X, 5 * s.X)


def split_limit(s: Sizes) -> Traffic:
    """The same, where both are halves of x, and y is as large as one."""
    return Traffic(3 * s.X // 2, 5 * s.X // 2)


def blend_limit(s: Sizes) -> Traffic:
    """Forward: read x, y, a, write z. Backward: read dz and them, write their gradients."""
    return Traffic(4 * s.X, 7 * s.X)


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


def spatial_se_ours(s: Sizes) -> Traffic:
    """Forward: squeeze reads x, writes the sums (P); the map's sigmoid (2 P); gate reads x and the
    map, writes y. Backward: the map's gradient from dy and x (2 X, 2 P), sigmoid (3 P), the final
    pass (dy, x for the weight's gradient, dx: 3 X, 2 P).

    With the channel gate's mean and factor, which are smaller than a plane, it is the same.
    """
    return Traffic(3 * s.X + 4 * s.P, 5 * s.X + 7 * s.P)


def bam_ours(s: Sizes) -> Traffic:
    """Forward: its layers; the mean (X); gate (2 X, P). Backward: the factors' gradients (2 X,
    2 P), its layers', the final pass (dy to dx: 2 X, P), and the addition of the layers' (3 X).
    """
    layers = bam_layers(s)
    return Traffic(layers.fwd + 3 * s.X + s.P, layers.bwd + 7 * s.X + 3 * s.P)


def coordinate_ours(s: Sizes) -> Traffic:
    """Forward: both means (X, R, K), its layers, gate (2 X, R, K). Backward: the factors' gradients
    (2 X, 2 R, 2 K), the layers', the final pass (dy to dx: 2 X, 2 R, 2 K).
    """
    layers = coordinate_layers(s)
    both = s.R + s.K
    return Traffic(layers.fwd + 3 * s.X + 2 * both, layers.bwd + 4 * s.X + 4 * both)


def self_gate_ours(s: Sizes) -> Traffic:
    """Forward: moments (X), gate (2 X). Backward: the coefficients' gradients from dy and x (2 X);
    dx from both (3 X). A shuffle of channels is where maps are stored and loaded.
    """
    return Traffic(3 * s.X, 5 * s.X)


def selective_ours(s: Sizes) -> Traffic:
    """Forward: the mean of the sum (2 X), mix (3 X). Backward: the selection's gradient from dy and
    both maps (3 X); the final pass, dy to both gradients (3 X).
    """
    return Traffic(5 * s.X, 6 * s.X)


def split_ours(s: Sizes) -> Traffic:
    """selective_ours, where both maps are halves of x."""
    return Traffic(5 * s.X // 2, 3 * s.X)


def iterative_blend_ours(s: Sizes) -> Traffic:
    """Two blends, the layers between, and backward both parts of dx and of dy are added (6 X)."""
    layers, one = aff_layers(s), blend_limit(s)
    return Traffic(2 * one.fwd + layers.fwd, 2 * one.bwd + layers.bwd + 6 * s.X)


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


def spatial_se_eager(s: Sizes) -> Traffic:
    """Forward: convolution (X, P), sigmoid (2 P), product (2 X, P). Backward: the product's two
    (2 X, P and 3 X) and a sum (X, P), sigmoid (3 P), convolution (x, the map for it and for the
    weight, dx: 2 X, 2 P), addition (3 X).
    """
    return Traffic(3 * s.X + 4 * s.P, 11 * s.X + 7 * s.P)


def spatial_channel_se_eager(s: Sizes) -> Traffic:
    """Both, and their sum: forward 3 X; backward the additions of two more gradients of x, of which
    each gate has one already (3 X)."""
    of_channels, of_pixels = squeeze_excite_eager(s), spatial_se_eager(s)
    return Traffic(
        of_channels.fwd + of_pixels.fwd + 3 * s.X, of_channels.bwd + of_pixels.bwd + 3 * s.X
    )


def bam_layers(s: Sizes) -> Traffic:
    """Of BAM's spatial half, which ours leaves to PyTorch. Forward: convolutions (X, B; 4 B; B, P),
    batch norms (9 B), ReLUs (6 B). Backward: convolutions (2 B, 2 P; 8 B; 2 X, 2 B), batch norms
    (15 B), ReLUs (9 B).
    """
    return Traffic(s.X + 21 * s.B + s.P, 2 * s.X + 36 * s.B + 2 * s.P)


def bam_eager(s: Sizes) -> Traffic:
    """Forward: its layers, mean (X), product of both halves (X, P), sigmoid (2 X), 1 + (2 X),
    product (3 X).

    Backward: the product's two (3 X each), sigmoid (3 X), the halves' products (2 X, P; 2 X) and
    sums (X; X, P), the mean's gradient, expanded and divided (X), two additions (6 X), its layers.
    """
    layers = bam_layers(s)
    return Traffic(layers.fwd + 9 * s.X + s.P, layers.bwd + 22 * s.X + 2 * s.P)


def coordinate_layers(s: Sizes) -> Traffic:
    """From the means of rows and columns to their factors, as eager has them. Forward: cat (2 R,
    2 K), convolution (R, K, M), batch norm (3 M), hard swish (2 M), convolutions (M, R, K),
    sigmoids (2 R, 2 K). Backward: sigmoids (3 R, 3 K), convolutions (2 M, 2 R, 2 K), cat of the
    parts' gradients (2 M), hard swish (3 M), batch norm (5 M), convolution (2 M, 2 R, 2 K).
    """
    both = s.R + s.K
    return Traffic(6 * both + 7 * s.M, 7 * both + 14 * s.M)


def coordinate_eager(s: Sizes) -> Traffic:
    """Forward: both means (2 X, R, K), layers, two products (4 X, R, K). Backward: of each product
    two (2 X and R or K; 3 X) and a sum (X, R or K), the means', expanded and divided (2 X, R, K),
    two additions (6 X), layers.
    """
    layers, both = coordinate_layers(s), s.R + s.K
    return Traffic(layers.fwd + 6 * s.X + 2 * both, layers.bwd + 20 * s.X + 3 * both)


def simam_eager(s: Sizes) -> Traffic:
    """Forward: mean (X), difference (2 X), square (2 X), sum (X), quotient (2 X), addition (2 X),
    sigmoid (2 X), product (3 X).

    Backward: the product's two (6 X), sigmoid (3 X), the square's part of the quotient's (2 X) and
    the sum's (9 X, and a sum, X), which comes to it (2 X), square (7 X), the mean's (3 X), addition
    (3 X), its share for all (X), addition (3 X).
    """
    return Traffic(15 * s.X, 40 * s.X)


def shuffle_eager(s: Sizes) -> Traffic:
    """Forward, in halves of X: mean (1), product (2); copy (2), group norm (3), weight and bias
    (4), sigmoid (2), product (3); cat and shuffle (8).

    Backward: shuffle (4), products (3 each) and sigmoid (3), the other product (3, 2) and a sum
    (1); bias's sum (1), weight (2, 3) and a sum (1), group norm (5), additions and the mean's (3,
    1, 3), cat (4).
    """
    return Traffic(25 * s.X // 2, 21 * s.X)


def selective_eager(s: Sizes) -> Traffic:
    """Forward: stack (4 X), its sum (3 X), mean (X), product (4 X), sum (3 X). Backward: the
    product's two (3 X, 5 X) and a sum (2 X), the mean's, expanded and divided (X), addition (5 X).
    """
    return Traffic(15 * s.X, 16 * s.X)


def split_eager(s: Sizes) -> Traffic:
    """selective_eager without the stack, where both maps are halves of x."""
    return Traffic(11 * s.X // 2, 8 * s.X)


def blend_eager(s: Sizes) -> Traffic:
    """Forward: norm (2 X), sigmoid (2 X), 1 - w (2 X), two products (6 X), their sum (3 X).
    Backward: of each product two (12 X), of 1 - w (2 X), addition (3 X), sigmoid (3 X), norm's sums
    and elementwise part (4 X).
    """
    return Traffic(15 * s.X, 24 * s.X)


def aff_layers(s: Sizes) -> Traffic:
    """Two convolutions by way of H. Forward: X, H; H, X. Backward: 2 X, 2 H of each."""
    return Traffic(2 * s.X + 2 * s.H, 4 * s.X + 4 * s.H)


def iterative_blend_eager(s: Sizes) -> Traffic:
    """Two blends, the layers between, and backward both parts of dx and of dy are added (6 X)."""
    layers, one = aff_layers(s), blend_eager(s)
    return Traffic(2 * one.fwd + layers.fwd, 2 * one.bwd + layers.bwd + 6 * s.X)


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


def spatial_se_compile(s: Sizes) -> Traffic:
    """Forward: convolution (X, P), sigmoid and product (2 X, P). Backward: the map's gradient (2 X,
    2 P), convolution (2 X, 3 P), the sum of both gradients of x (dy, that, dx: 3 X, P)."""
    return Traffic(3 * s.X + 2 * s.P, 7 * s.X + 6 * s.P)


def spatial_channel_se_compile(s: Sizes) -> Traffic:
    """spatial_se, and the mean (X); backward the channel gate's gradient (2 X)."""
    tail = spatial_se_compile(s)
    return Traffic(tail.fwd + s.X, tail.bwd + 2 * s.X)


def bam_compile(s: Sizes) -> Traffic:
    """Forward: mean (X), gate (2 X, P), layers: convolutions (X, B; 4 B; B, P), norms' statistics
    (3 B), norms and ReLUs (6 B). Backward: both halves' products, of which one is stored (3 X), and
    sums (X, and 2 X again), the sum of the gradients of x (3 X), layers: convolutions (2 X; 12 B;
    2 P), norms' sums and elementwise parts with the ReLU (15 B).

    Not counted: on the CPU, PyTorch 2.13 copies x to channels_last for the first convolution.
    """
    return Traffic(4 * s.X + 15 * s.B + 2 * s.P, 10 * s.X + 27 * s.B + 5 * s.P)


def coordinate_compile(s: Sizes) -> Traffic:
    """Forward: both means (2 X, R, K), their join (2 R, 2 K), convolution, norm and hard swish (R,
    K, 6 M), convolutions and sigmoids (M, 3 R, 3 K), gate (2 X, R, K). Backward: of each factor a
    sum (2 X and 2 R, 2 K), sigmoids (3 R, 3 K), convolutions (2 M; 2 R, 2 K), the rest of the
    layers (12 M, 2 R, 2 K), dx from dy, factors and the means' gradients (2 X, 2 R, 2 K).
    """
    both = s.R + s.K
    return Traffic(4 * s.X + 8 * both + 7 * s.M, 6 * s.X + 11 * both + 14 * s.M)


def simam_compile(s: Sizes) -> Traffic:
    """Forward: mean (X), sum (X), the rest (2 X). Backward: two sums (2 X each), dx (3 X)."""
    return Traffic(4 * s.X, 7 * s.X)


def shuffle_compile(s: Sizes) -> Traffic:
    """Forward: mean and moments (X), both halves (2 X), their shuffle (2 X). Backward, in halves of
    X: the sigmoid's gradient, stored (3), the sums and dx of the normalised half (4), those of the
    other (4), the sums of the norm's parameters (3).
    """
    return Traffic(5 * s.X, 7 * s.X)


def selective_compile(s: Sizes) -> Traffic:
    """Forward: stack (4 X), the mean of its sum (2 X), the selection (3 X). Backward: the
    selection's gradient (3 X), the stack's (3 X).

    Not counted: on the CPU, PyTorch 2.13's training call copies the stack to channels_last.
    """
    return Traffic(9 * s.X, 6 * s.X)


def split_compile(s: Sizes) -> Traffic:
    """selective_compile without the stack, where both maps are halves of x."""
    return Traffic(5 * s.X // 2, 3 * s.X)


def blend_compile(s: Sizes) -> Traffic:
    """Forward is the limit. Backward: w, stored, and da from dz, x, y and a (6 X); dx and dy (4 X);
    the sums for scale and shift from dz, x, y, a and w (5 X)."""
    return Traffic(4 * s.X, 15 * s.X)


def iterative_blend_compile(s: Sizes) -> Traffic:
    """Forward: two blends and the layers between. Backward: da2 from dz, x, y and w2 (5 X), the
    sums from the same and a2 (5 X), layers; w and da from their gradient, x, y and a (6 X), the
    sums from the same and w (5 X); dx and dy from both gradients and both w (6 X).
    """
    layers = aff_layers(s)
    return Traffic(8 * s.X + layers.fwd, 27 * s.X + layers.bwd)


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
    "spatial_se": {
        "limit": gate_limit,
        "ours": spatial_se_ours,
        "eager": spatial_se_eager,
        "compile": spatial_se_compile,
    },
    "spatial_channel_se": {
        "limit": gate_limit,
        "ours": spatial_se_ours,
        "eager": spatial_channel_se_eager,
        "compile": spatial_channel_se_compile,
    },
    "bam": {
        "limit": gate_limit,
        "ours": bam_ours,
        "eager": bam_eager,
        "compile": bam_compile,
    },
    "coordinate_attention": {
        "limit": gate_limit,
        "ours": coordinate_ours,
        "eager": coordinate_eager,
        "compile": coordinate_compile,
    },
    "simam": {
        "limit": gate_limit,
        "ours": self_gate_ours,
        "eager": simam_eager,
        "compile": simam_compile,
    },
    "shuffle_attention": {
        "limit": gate_limit,
        "ours": self_gate_ours,
        "eager": shuffle_eager,
        "compile": shuffle_compile,
    },
    "selective_kernel": {
        "limit": selective_limit,
        "ours": selective_ours,
        "eager": selective_eager,
        "compile": selective_compile,
    },
    "split_attention": {
        "limit": split_limit,
        "ours": split_ours,
        "eager": split_eager,
        "compile": split_compile,
    },
    "blend": {
        "limit": blend_limit,
        "ours": blend_limit,
        "eager": blend_eager,
        "compile": blend_compile,
    },
    "iterative_blend": {
        "limit": blend_limit,
        "ours": iterative_blend_ours,
        "eager": iterative_blend_eager,
        "compile": iterative_blend_compile,
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


def wide(s: Sizes, size: int) -> int:
    """Of something in x's dtype, and of its copy in the accumulate dtype if that is another."""
    return size if s.A == s.P else size + size * s.A // s.P


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
    # The map. Ours has it in the accumulate dtype, too, where that is another.
    "spatial_se": {"eager": lambda s: s.P, "ours": lambda s: wide(s, s.P)},
    "spatial_channel_se": {"eager": lambda s: s.P, "ours": lambda s: wide(s, s.P)},
    # Of the layers what norms, ReLUs and convolutions were given, and the spatial half's map.
    # Eager: the sigmoid of both halves' product, and that and 1.
    "bam": {
        "eager": lambda s: 2 * s.X + 6 * s.B + s.P,
        "ours": lambda s: 6 * s.B + wide(s, s.P),
    },
    # The means, joined, what the layers were given, and the factors. Eager: the first product.
    "coordinate_attention": {
        "eager": lambda s: s.X + 2 * (s.R + s.K) + 3 * s.M,
        "ours": lambda s: s.R + s.K + 3 * s.M + wide(s, s.R + s.K),
    },
    # Eager: the difference, its square, the sigmoid.
    "simam": {"eager": lambda s: 3 * s.X, "ours": lambda s: 0},
    # Eager, of one half each: its copy, the normalised, the sigmoid.
    "shuffle_attention": {"eager": lambda s: 3 * s.X // 2, "ours": lambda s: 0},
    # Eager: the stack. Of halves of one map there is none.
    "selective_kernel": {"eager": lambda s: 2 * s.X, "ours": lambda s: 0},
    "split_attention": {"eager": lambda s: 0, "ours": lambda s: 0},
    # Eager: the sigmoid, and 1 less that.
    "blend": {"eager": lambda s: 2 * s.X, "ours": lambda s: 0},
    # What the layers between were given, and gave. Eager: of both blends what one keeps, too.
    "iterative_blend": {"eager": lambda s: 6 * s.X + s.H, "ours": lambda s: 2 * s.X + s.H},
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
