"""Triton kernels of GAM's channel gate; `gam_channel_gate.py` says when each of them runs.

Per pixel, with x (C), hidden (R) and a (C):

    hidden = relu(w1 @ x + b1)         a = w2 @ hidden + b2    g = a or sigmoid(a)    y = x * g
    da = dy * x [* g * (1 - g)]        d_pre = (w2^T @ da) * (hidden > 0)
    dx = dy * g + w1^T @ d_pre
    d_w2 = sum of da hidden^T          d_b2 = sum of da
    d_w1 = sum of d_pre x^T            d_b1 = sum of d_pre

Tiles are (pixels, channels): the pixels fill the rows that the matrix units want (64 or 128),
however small R is, and a hidden tile goes from the first product's accumulator to the second
product's left operand in registers.

Meta-parameters: P pixels, BC channels and BR hidden units per tile, BK terms of an inner product
per step. BR of a one-kernel tile covers R whole. Channels past C and hidden units past R are
masked: they load as zero.
"""

import triton
import triton.language as tl

from .common import (
    channel_offset,
    dot,
    load_matrix,
    load_vector,
    map_width,
    narrow,
    pixel_offset,
    relu,
    relu_backward,
    tile_range,
    varying,
    within,
)


@triton.jit
def product(
    map_ptr,  # (pixels, K) feature map, at channel 0 of each pixel of the tile: (P, 1) pointers
    factor_ptr,  # the same for a map to multiply it with
    weight_ptr,  # element (k, column) lies at k * K_STRIDE + column * COLUMN_STRIDE
    live,
    column,
    hw,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    K_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """(P, BN) tile of (map * factor) @ weight, float32."""
    acc = tl.zeros((P, BN), tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        offset = channel_offset(k, hw, CHANNELS_LAST)[None, :]
        mask = within(live, k, K, BK)
        operand = tl.load(map_ptr + offset, mask=mask, other=0.0)
        if HAS_FACTOR:
            factor = tl.load(factor_ptr + offset, mask=mask, other=0.0)
            operand = narrow(operand.to(tl.float32) * factor.to(tl.float32), operand.dtype)
        weight = load_matrix(weight_ptr, k, column, K, COLUMNS, K_STRIDE, COLUMN_STRIDE)
        acc = dot(operand, weight, acc, PRECISION)
    return acc


@triton.jit
def activate(a, SIGMOID: tl.constexpr):
    if SIGMOID:
        return tl.sigmoid(a)
    else:
        return a


@triton.jit
def gate_gradient(dy, x, g, SIGMOID: tl.constexpr):
    """da in float32."""
    da = dy.to(tl.float32) * x.to(tl.float32)
    if SIGMOID:
        da = da * (g * (1.0 - g))
    return da


@triton.jit
def make_hidden(
    x_ptr,
    w1_ptr,
    b1_ptr,
    hidden_ptr,
    pixel,
    live,
    r,
    hw,
    C: tl.constexpr,
    R: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    """(P, BR) tile of hidden for the hidden units `r`: stored, and returned in x's dtype."""
    x_ptrs = x_ptr + pixel_offset(pixel, hw, C, CHANNELS_LAST)[:, None]
    pre = product(
        x_ptrs, x_ptrs, w1_ptr, live, r, hw, C, R, 1, C, False, CHANNELS_LAST, PRECISION, P, BR, BK
    )
    hidden = narrow(relu(pre + load_vector(b1_ptr, r, R)[None, :]), x_ptr.dtype.element_ty)
    offset = (
        pixel_offset(pixel, hw, R, CHANNELS_LAST)[:, None]
        + channel_offset(r, hw, CHANNELS_LAST)[None, :]
    )
    tl.store(hidden_ptr + offset, hidden, mask=within(live, r, R, BR))
    return hidden


@triton.jit
def gate_logits(
    hidden,  # (P, BR), all of its pixels' hidden units
    w2_ptr,
    b2_ptr,
    r,
    c,
    C: tl.constexpr,
    R: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    """(P, BC) tile of a, float32."""
    w2 = load_matrix(w2_ptr, r, c, R, C, 1, R)
    return (
        dot(hidden, w2, tl.zeros((P, BC), tl.float32), PRECISION)
        + load_vector(b2_ptr, c, C)[None, :]
    )


@varying
def gam_forward_kernel(
    x_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    b2_ptr,
    y_ptr,
    hidden_ptr,
    images,
    hw_units,
    C: tl.constexpr,
    R: tl.constexpr,
    SIGMOID: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
    BR: tl.constexpr,
):
    """The whole forward of one tile of pixels; the second reading of x finds it in L2."""
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    pixel = tile_range(tl.program_id(0), P, INDEX)
    live = pixel < images * hw
    r = tl.arange(0, BR)
    hidden = make_hidden(
        x_ptr,
        w1_ptr,
        b1_ptr,
        hidden_ptr,
        pixel,
        live,
        r,
        hw,
        C,
        R,
        CHANNELS_LAST,
        PRECISION,
        P,
        BR,
        BC,
    )
    x_offset = pixel_offset(pixel, hw, C, CHANNELS_LAST)[:, None]
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        a = gate_logits(hidden, w2_ptr, b2_ptr, r, c, C, R, PRECISION, P, BC)
        offset = x_offset + channel_offset(c, hw, CHANNELS_LAST)[None, :]
        mask = within(live, c, C, BC)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0, eviction_policy="evict_first")
        y = x.to(tl.float32) * activate(a, SIGMOID)
        tl.store(y_ptr + offset, narrow(y, x.dtype), mask=mask, eviction_policy="evict_first")


@varying
def gam_backward_kernel(
    dy_ptr,
    x_ptr,
    hidden_ptr,
    w1_ptr,
    w2_ptr,
    b2_ptr,
    dx_ptr,
    d_pre_ptr,
    images,
    hw_units,
    C: tl.constexpr,
    R: tl.constexpr,
    SIGMOID: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
    BR: tl.constexpr,
):
    """d_pre and dx of one tile of pixels; the second reading of dy finds it in L2."""
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    pixel = tile_range(tl.program_id(0), P, INDEX)
    live = pixel < images * hw
    r = tl.arange(0, BR)
    x_offset = pixel_offset(pixel, hw, C, CHANNELS_LAST)[:, None]
    hidden_offset = (
        pixel_offset(pixel, hw, R, CHANNELS_LAST)[:, None]
        + channel_offset(r, hw, CHANNELS_LAST)[None, :]
    )
    hidden_mask = within(live, r, R, BR)
    hidden = tl.load(hidden_ptr + hidden_offset, mask=hidden_mask, other=0.0)
    d_hidden = tl.zeros((P, BR), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        offset = x_offset + channel_offset(c, hw, CHANNELS_LAST)[None, :]
        mask = within(live, c, C, BC)
        dy = tl.load(dy_ptr + offset, mask=mask, other=0.0)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0, eviction_policy="evict_first")
        if SIGMOID:
            a = gate_logits(hidden, w2_ptr, b2_ptr, r, c, C, R, PRECISION, P, BC)
            da = gate_gradient(dy, x, tl.sigmoid(a), True)
        else:
            da = gate_gradient(dy, x, 0.0, False)
        w2_rows = load_matrix(w2_ptr, c, r, C, R, R, 1)
        d_hidden = dot(narrow(da, x.dtype), w2_rows, d_hidden, PRECISION)
    d_pre = narrow(relu_backward(d_hidden, hidden), hidden.dtype)
    tl.store(d_pre_ptr + hidden_offset, d_pre, mask=hidden_mask)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        a = gate_logits(hidden, w2_ptr, b2_ptr, r, c, C, R, PRECISION, P, BC)
        offset = x_offset + channel_offset(c, hw, CHANNELS_LAST)[None, :]
        mask = within(live, c, C, BC)
        dy = tl.load(dy_ptr + offset, mask=mask, other=0.0, eviction_policy="evict_first")
        w1 = load_matrix(w1_ptr, r, c, R, C, C, 1)
        dx = dot(d_pre, w1, dy.to(tl.float32) * activate(a, SIGMOID), PRECISION)
        tl.store(dx_ptr + offset, narrow(dx, dy.dtype), mask=mask, eviction_policy="evict_first")


@varying
def gam_hidden_kernel(
    x_ptr,
    w1_ptr,
    b1_ptr,
    hidden_ptr,
    images,
    hw_units,
    C: tl.constexpr,
    R: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """hidden, one program per tile of pixels and of hidden units."""
    tiles: tl.constexpr = (R + BN - 1) // BN
    program = tl.program_id(0)
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    pixel = tile_range(program // tiles, P, INDEX)
    live = pixel < images * hw
    r = program % tiles * BN + tl.arange(0, BN)
    make_hidden(
        x_ptr,
        w1_ptr,
        b1_ptr,
        hidden_ptr,
        pixel,
        live,
        r,
        hw,
        C,
        R,
        CHANNELS_LAST,
        PRECISION,
        P,
        BN,
        BK,
    )


@varying
def gam_d_pre_kernel(
    da_ptr,  # da, or with IS_PRODUCT dy, to be multiplied with x
    x_ptr,
    hidden_ptr,
    w2_ptr,
    d_pre_ptr,
    images,
    hw_units,
    C: tl.constexpr,
    R: tl.constexpr,
    IS_PRODUCT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """d_pre, one program per tile of pixels and of hidden units."""
    tiles: tl.constexpr = (R + BN - 1) // BN
    program = tl.program_id(0)
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    pixel = tile_range(program // tiles, P, INDEX)
    live = pixel < images * hw
    r = program % tiles * BN + tl.arange(0, BN)
    x_offset = pixel_offset(pixel, hw, C, CHANNELS_LAST)[:, None]
    d_hidden = product(
        da_ptr + x_offset,
        x_ptr + x_offset,
        w2_ptr,
        live,
        r,
        hw,
        C,
        R,
        R,
        1,
        IS_PRODUCT,
        CHANNELS_LAST,
        PRECISION,
        P,
        BN,
        BK,
    )
    offset = (
        pixel_offset(pixel, hw, R, CHANNELS_LAST)[:, None]
        + channel_offset(r, hw, CHANNELS_LAST)[None, :]
    )
    mask = within(live, r, R, BN)
    d_pre = relu_backward(d_hidden, tl.load(hidden_ptr + offset, mask=mask, other=0.0))
    tl.store(d_pre_ptr + offset, narrow(d_pre, d_pre_ptr.dtype.element_ty), mask=mask)


@varying
def gam_gate_kernel(
    dy_ptr,  # read only by OUTPUT "da" and "dx"
    x_ptr,  # read only by OUTPUT "y" and "da"
    hidden_ptr,
    d_pre_ptr,  # read only by OUTPUT "dx"
    w1_ptr,  # read only by OUTPUT "dx"
    w2_ptr,
    b2_ptr,
    out_ptr,
    images,
    hw_units,
    C: tl.constexpr,
    R: tl.constexpr,
    OUTPUT: tl.constexpr,
    SIGMOID: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """From hidden: y = x * g, or da, or dx = dy * g + w1^T @ d_pre; one program per tile of pixels
    and channels.
    """
    tiles: tl.constexpr = (C + BN - 1) // BN
    program = tl.program_id(0)
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    pixel = tile_range(program // tiles, P, INDEX)
    live = pixel < images * hw
    c = program % tiles * BN + tl.arange(0, BN)
    hidden_offset = pixel_offset(pixel, hw, R, CHANNELS_LAST)[:, None]
    hidden_ptrs = hidden_ptr + hidden_offset
    a = product(
        hidden_ptrs,
        hidden_ptrs,
        w2_ptr,
        live,
        c,
        hw,
        R,
        C,
        1,
        R,
        False,
        CHANNELS_LAST,
        PRECISION,
        P,
        BN,
        BK,
    )
    g = activate(a + load_vector(b2_ptr, c, C)[None, :], SIGMOID)
    offset = (
        pixel_offset(pixel, hw, C, CHANNELS_LAST)[:, None]
        + channel_offset(c, hw, CHANNELS_LAST)[None, :]
    )
    mask = within(live, c, C, BN)
    if OUTPUT == "y":
        out = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32) * g
    else:
        dy = tl.load(dy_ptr + offset, mask=mask, other=0.0)
        if OUTPUT == "da":
            out = gate_gradient(dy, tl.load(x_ptr + offset, mask=mask, other=0.0), g, SIGMOID)
        else:
            d_pre_ptrs = d_pre_ptr + hidden_offset
            d_mixed = product(
                d_pre_ptrs,
                d_pre_ptrs,
                w1_ptr,
                live,
                c,
                hw,
                R,
                C,
                C,
                1,
                False,
                CHANNELS_LAST,
                PRECISION,
                P,
                BN,
                BK,
            )
            out = dy.to(tl.float32) * g + d_mixed
    tl.store(out_ptr + offset, narrow(out, out_ptr.dtype.element_ty), mask=mask)


@varying
def gam_weight_gradient_kernel(
    da_ptr,  # DA "given": da; "product" and "sigmoid": dy
    x_ptr,
    hidden_ptr,
    d_pre_ptr,
    w2_ptr,
    b2_ptr,
    partials_ptr,  # (splits, R * C + R + C * R + C) float32: d_w1, d_b1, d_w2, d_b2
    images,
    hw_units,
    tiles_per_split,
    C: tl.constexpr,
    R: tl.constexpr,
    DA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
    BR: tl.constexpr,
):
    """Parameter gradients of one split of the pixels, for BC channels and BR hidden units; tiles
    are (channels, P).

    d_w1 (R, C) and d_w2 (C, R) are both summed as (BR, BC), or with the sigmoid as (BC, BR): da is
    then the right factor, which wgmma reads from shared memory, while a left one in registers would
    have it wait for each product. The sigmoid's da comes out of a product of its own, and serves
    best from the registers it is in.
    """
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    split = tl.program_id(2)
    first_channels = tl.program_id(0) == 0  # which stores d_b1, and alone sums it
    first_hidden = tl.program_id(1) == 0  # the same for d_b2
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    c_offset = channel_offset(c, hw, CHANNELS_LAST)[:, None]
    r_offset = channel_offset(r, hw, CHANNELS_LAST)[:, None]
    d_w1 = tl.zeros((BC, BR) if DA == "sigmoid" else (BR, BC), tl.float32)
    d_w2 = tl.zeros_like(d_w1)
    d_b1 = tl.zeros((BR,), tl.float32)
    d_b2 = tl.zeros((BC,), tl.float32)
    for step in range(0, tiles_per_split):
        pixel = tile_range(split * tiles_per_split + step, P, INDEX)
        live = pixel < images * hw
        mask = live[None, :] & (c < C)[:, None]
        offset = c_offset + pixel_offset(pixel, hw, C, CHANNELS_LAST)[None, :]
        x = tl.load(x_ptr + offset, mask=mask, other=0.0)
        hidden_mask = live[None, :] & (r < R)[:, None]
        hidden_offset = r_offset + pixel_offset(pixel, hw, R, CHANNELS_LAST)[None, :]
        hidden = tl.load(hidden_ptr + hidden_offset, mask=hidden_mask, other=0.0)
        d_pre = tl.load(d_pre_ptr + hidden_offset, mask=hidden_mask, other=0.0)
        da = tl.load(da_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        if DA == "product":
            da = gate_gradient(da, x, 0.0, False)
        elif DA == "sigmoid":
            w2 = load_matrix(w2_ptr, c, r, C, R, R, 1)
            a = (
                dot(w2, hidden, tl.zeros((BC, P), tl.float32), PRECISION)
                + load_vector(b2_ptr, c, C)[:, None]
            )
            da = gate_gradient(da, x, tl.sigmoid(a), True)
        if DA == "sigmoid":
            d_w1 = dot(x, tl.trans(d_pre), d_w1, PRECISION)
            d_w2 = dot(narrow(da, x.dtype), tl.trans(hidden), d_w2, PRECISION)
        else:
            d_w1 = dot(d_pre, tl.trans(x), d_w1, PRECISION)
            d_w2 = dot(hidden, tl.trans(narrow(da, x.dtype)), d_w2, PRECISION)
        if first_channels:
            d_b1 += tl.sum(d_pre.to(tl.float32), axis=1)
        if first_hidden:
            d_b2 += tl.sum(da, axis=1)
    if DA == "sigmoid":
        d_w1 = tl.trans(d_w1)
        d_w2 = tl.trans(d_w2)
    row_ptr = partials_ptr + split.to(tl.int64) * (2 * C * R + C + R)
    mask = (r < R)[:, None] & (c < C)[None, :]
    tl.store(row_ptr + (r[:, None] * C + c[None, :]), d_w1, mask=mask)
    tl.store(row_ptr + R * C + r, d_b1, mask=(r < R) & first_channels)
    tl.store(row_ptr + (R * C + R) + (c[None, :] * R + r[:, None]), d_w2, mask=mask)
    tl.store(row_ptr + (2 * R * C + R) + c, d_b2, mask=(c < C) & first_hidden)
