"""y = x * sigmoid(a * scale[c] + shift[c]): a batch normalisation's affine part, the sigmoid and
the gate in one pass.

Traffic, with N the bytes of x: forward x, a, y: 3 N; backward dy, x, a, dx, da: 5 N. Nothing is
saved but x and a.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .common import (
    MapLayout,
    channel_offset,
    like,
    load_vector,
    map_width,
    narrow,
    native,
    new_map,
    new_partials,
    pixel_offset,
    power_of_two,
    split_evenly,
    sum_partials,
    tile_range,
    varying,
)

# Elements per tile: 8 for each thread of 4 warps, which is one 16-byte access of float16 per
# operand.
TILE = 1024
# Programs of the backward: enough to fill a large GPU several times over, and the same on every
# device.
BACKWARD_PROGRAMS = 1024


@varying
def scale_gate_kernel(
    x_ptr,
    a_ptr,
    scale_ptr,
    shift_ptr,
    y_ptr,
    images,
    hw_units,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    """y, one program per tile of channels and pixels (BC, P)."""
    tiles: tl.constexpr = (C + BC - 1) // BC
    program = tl.program_id(0)
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    pixel = tile_range(program // tiles, P, INDEX)
    c = program % tiles * BC + tl.arange(0, BC)
    offset = (
        channel_offset(c, hw, CHANNELS_LAST)[:, None]
        + pixel_offset(pixel, hw, C, CHANNELS_LAST)[None, :]
    )
    mask = (c < C)[:, None] & (pixel < images * hw)[None, :]
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    a = tl.load(a_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    g = tl.sigmoid(
        a * load_vector(scale_ptr, c, C)[:, None] + load_vector(shift_ptr, c, C)[:, None]
    )
    tl.store(y_ptr + offset, narrow(x * g, y_ptr.dtype.element_ty), mask=mask)


@varying
def scale_gate_backward_kernel(
    dy_ptr,
    x_ptr,
    a_ptr,
    scale_ptr,
    shift_ptr,
    dx_ptr,
    da_ptr,
    partials_ptr,  # (splits, 2 * C) float32: d_scale, d_shift
    images,
    hw_units,
    tiles_per_split,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    HW_ALIGN: tl.constexpr,
    INDEX: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    """dx, da and the partial sums of d_scale and d_shift, for BC channels and one split of the
    pixels.
    """
    tiles: tl.constexpr = (C + BC - 1) // BC
    program = tl.program_id(0)
    split = program // tiles
    hw = map_width(hw_units, HW_ALIGN, INDEX)
    c = program % tiles * BC + tl.arange(0, BC)
    scale = load_vector(scale_ptr, c, C)[:, None]
    shift = load_vector(shift_ptr, c, C)[:, None]
    c_offset = channel_offset(c, hw, CHANNELS_LAST)[:, None]
    d_scale = tl.zeros((BC, P), tl.float32)
    d_shift = tl.zeros((BC, P), tl.float32)
    for step in range(0, tiles_per_split):
        pixel = tile_range(split * tiles_per_split + step, P, INDEX)
        offset = c_offset + pixel_offset(pixel, hw, C, CHANNELS_LAST)[None, :]
        mask = (c < C)[:, None] & (pixel < images * hw)[None, :]
        dy = tl.load(dy_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        a = tl.load(a_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        g = tl.sigmoid(a * scale + shift)
        d_affine = dy * x * (g * (1.0 - g))
        tl.store(dx_ptr + offset, narrow(dy * g, dx_ptr.dtype.element_ty), mask=mask)
        tl.store(da_ptr + offset, narrow(d_affine * scale, da_ptr.dtype.element_ty), mask=mask)
        d_scale += d_affine * a
        d_shift += d_affine
    row_ptr = partials_ptr + split.to(tl.int64) * (2 * C)
    tl.store(row_ptr + c, tl.sum(d_scale, axis=1), mask=c < C)
    tl.store(row_ptr + C + c, tl.sum(d_shift, axis=1), mask=c < C)


def tile_options(layout: MapLayout, channels: int) -> dict:
    """The tile's shape: long where memory is contiguous, along the pixels or along the channels."""
    width = min(power_of_two(channels, 1), 128 if layout.channels_last else 4)
    return layout.arguments(TILE // width) | {
        "C": channels,
        "P": TILE // width,
        "BC": width,
        "num_warps": 4,
    }


def affine_parameter(p: torch.Tensor) -> torch.Tensor:
    return p.float().contiguous()


def scale_gate(
    x: torch.Tensor, a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """y, in x's dtype and memory format; x and a (N, C, H, W) of any strides, scale and shift (C)
    float32 or x's dtype.
    """
    x, scale, shift = native(x), affine_parameter(scale), affine_parameter(shift)
    layout = MapLayout.of(x)
    channels = x.shape[1]
    y = new_map(x, channels, layout)
    if layout.pixels == 0:
        return y
    options = tile_options(layout, channels)
    tiles = triton.cdiv(layout.pixels, options["P"]) * triton.cdiv(channels, options["BC"])
    with torch.cuda.device_of(x):
        scale_gate_kernel[(tiles,)](x, like(a, layout), scale, shift, y, **options)
    return y


def scale_gate_backward(
    dy: torch.Tensor, x: torch.Tensor, a: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx, da, d_scale, d_shift): dx and da in the dtypes of x and a and in x's memory format; the
    others float32.
    """
    x, scale, shift = native(x), affine_parameter(scale), affine_parameter(shift)
    layout = MapLayout.of(x)
    channels = x.shape[1]
    dx, da = new_map(x, channels, layout), new_map(x, channels, layout, a.dtype)
    if layout.pixels == 0:
        return dx, da, torch.zeros_like(scale), torch.zeros_like(shift)
    options = tile_options(layout, channels)
    columns = triton.cdiv(channels, options["BC"])
    tiles_per_split, splits = split_evenly(
        triton.cdiv(layout.pixels, options["P"]), BACKWARD_PROGRAMS // columns
    )
    partials = new_partials(x, splits, 2 * channels)
    with torch.cuda.device_of(x):
        scale_gate_backward_kernel[(columns * splits,)](
            *(
                like(dy, layout),
                x,
                like(a, layout),
                scale,
                shift,
                dx,
                da,
                partials,
            ),
            tiles_per_split=tiles_per_split,
            **options,
        )
        d_scale, d_shift = sum_partials(partials, [(channels,), (channels,)])
    return dx, da, d_scale, d_shift
