"""What the Triton kernels share: addressing, tile products, ordered sums, and how they are
launched.

Every kernel sees a feature map as a matrix of pixels by channels, as it lies in memory. A pixel is
`image * HW + position`, so that a tile may span several small images. Two layouts are native: NCHW,
where the channel stride is HW, and channels_last, where it is 1.
"""

from __future__ import annotations

import dataclasses

import torch
import triton
import triton.language as tl

# Triton's interpreter keeps bfloat16 as uint16: its tl.dot multiplies those integers, and its
# conversion from float32 drops bits where hardware rounds. `dot` and `narrow` make up for both
# there.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

INT32_MAX = 2**31 - 1

# Decorates the kernels: these integers change with the call, and specialising on them would compile
# the kernel again and gain nothing.
varying = triton.jit(
    do_not_specialize=[
        "images",
        "hw_units",
        "tiles_per_split",
        "splits",
        "end0",
        "end1",
        "end2",
        "length",
    ]
)


@triton.jit
def map_width(hw_units, HW_ALIGN: tl.constexpr, INDEX: tl.constexpr):
    """HW, written so that the compiler knows HW_ALIGN divides it: that is what makes its loads
    wide.
    """
    return hw_units.to(INDEX) * HW_ALIGN


@triton.jit
def tile_range(tile, SIZE: tl.constexpr, INDEX: tl.constexpr):
    return tile.to(INDEX) * SIZE + tl.arange(0, SIZE)


@triton.jit
def pixel_offset(pixel, hw, CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Offset of channel 0 of each pixel in a map of CHANNELS channels."""
    if CHANNELS_LAST:
        return pixel.to(tl.int64) * CHANNELS
    else:
        image = (pixel // hw).to(tl.int64)
        return image * CHANNELS * hw + pixel % hw


@triton.jit
def channel_offset(channel, hw, CHANNELS_LAST: tl.constexpr):
    if CHANNELS_LAST:
        return channel
    else:
        return channel.to(tl.int64) * hw


@triton.jit
def within(rows_live, column, COLUMNS: tl.constexpr, STEP: tl.constexpr):
    """Mask (rows, columns); the column test vanishes where STEP divides COLUMNS."""
    if COLUMNS % STEP == 0:
        return rows_live[:, None]
    else:
        return rows_live[:, None] & (column < COLUMNS)[None, :]


@triton.jit
def load_vector(ptr, index, SIZE: tl.constexpr):
    """Float32 values of a parameter vector of SIZE elements, 0 beyond its end."""
    return tl.load(ptr + index, mask=index < SIZE, other=0.0).to(tl.float32)


@triton.jit
def load_matrix(
    ptr,
    row,
    column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
):
    """Tile of a parameter matrix, 0 beyond its ends."""
    mask = (row < ROWS)[:, None] & (column < COLUMNS)[None, :]
    return tl.load(
        ptr + (row[:, None] * ROW_STRIDE + column[None, :] * COLUMN_STRIDE), mask=mask, other=0.0
    )


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b in float32; PRECISION says how float32 operands are multiplied ("ieee" or
    "tf32").
    """
    if INTERPRETED and a.dtype == tl.bfloat16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """A float32 value rounded to the nearest of dtype, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        nearest = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
        value = tl.where(value == value, nearest, value)
    return value.to(dtype)


@triton.jit
def relu(pre):
    """max(pre, 0) that lets NaN through, as torch.relu does."""
    return tl.where(pre <= 0, 0.0, pre)


@triton.jit
def relu_backward(d_hidden, hidden):
    return tl.where(hidden <= 0, 0.0, d_hidden)


@varying
def sum_partials_kernel(
    partials_ptr,  # (splits, length) float32
    out0_ptr,  # each output is one segment of a row: [0, end0), [end0, end1), ...
    out1_ptr,
    out2_ptr,
    out3_ptr,
    splits,
    end0,
    end1,
    end2,
    length,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Second stage of a gradient's reduction: the sum over the splits, always in the same order."""
    i = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, splits, ROWS):
        split = first + tl.arange(0, ROWS)
        mask = (split < splits)[:, None] & (i < length)[None, :]
        offset = split.to(tl.int64)[:, None] * length + i[None, :]
        total += tl.sum(tl.load(partials_ptr + offset, mask=mask, other=0.0), axis=0)
    tl.store(out0_ptr + i, total, mask=i < end0)
    tl.store(out1_ptr + i - end0, total, mask=(i >= end0) & (i < end1))
    tl.store(out2_ptr + i - end1, total, mask=(i >= end1) & (i < end2))
    tl.store(out3_ptr + i - end2, total, mask=(i >= end2) & (i < length))


def sum_partials(partials: torch.Tensor, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Sum the rows of `partials` (splits, length) and cut the sum into at most four tensors of
    these shapes.
    """
    outputs = [partials.new_empty(shape) for shape in shapes]
    length = partials.shape[1]
    ends, end = [], 0
    for output in outputs:
        end += output.numel()
        ends.append(end)
    # Outputs that are not asked for are empty segments: nothing is ever stored through their
    # pointer.
    pointers = outputs + [outputs[-1]] * (4 - len(outputs))
    ends += [length] * (4 - len(ends))
    grid = (triton.cdiv(length, 128),)
    sum_partials_kernel[grid](
        partials, *pointers, partials.shape[0], *ends[:3], length, ROWS=16, COLUMNS=128
    )
    return outputs


@dataclasses.dataclass(frozen=True)
class MapLayout:
    """How a feature map lies in memory, in the words that the kernels take."""

    images: int
    hw: int
    channels_last: bool

    @staticmethod
    def of(x: torch.Tensor) -> MapLayout:
        images, _, height, width = x.shape
        return MapLayout(images, height * width, not x.is_contiguous())

    @property
    def pixels(self) -> int:
        return self.images * self.hw

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def vector(self, channels: int) -> int:
        """How many elements, up to 16, start at a multiple of themselves wherever a row of memory
        starts.
        """
        row = channels if self.channels_last else self.hw
        return next(v for v in (16, 8, 4, 2, 1) if row % v == 0)

    def arguments(self, pixels_per_tile: int) -> dict:
        """The kernel arguments that describe the layout.

        HW_ALIGN divides HW: five variants at most, where HW itself as a constant would be compiled
        again for every map size and give the same width of loads.
        """
        align = 1 if self.channels_last else self.vector(channels=1)
        wide = self.pixels + pixels_per_tile > INT32_MAX
        return {
            "images": self.images,
            "hw_units": self.hw // align,
            "HW_ALIGN": align,
            "CHANNELS_LAST": self.channels_last,
            "INDEX": tl.int64 if wide else tl.int32,
        }


def native(x: torch.Tensor) -> torch.Tensor:
    """x itself where it is NCHW-contiguous or channels_last, else an NCHW copy."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def like(tensor: torch.Tensor, layout: MapLayout) -> torch.Tensor:
    """`tensor` in the layout of the map it belongs to; gradients may come with any strides."""
    return tensor.contiguous(memory_format=layout.memory_format)


def new_map(
    x: torch.Tensor, channels: int, layout: MapLayout, dtype: torch.dtype | None = None
) -> torch.Tensor:
    images, _, height, width = x.shape
    shape = (images, channels, height, width)
    return torch.empty(
        shape, dtype=dtype or x.dtype, device=x.device, memory_format=layout.memory_format
    )


def new_partials(x: torch.Tensor, splits: int, length: int) -> torch.Tensor:
    """Room for the partial sums of `splits` programs, `length` of each."""
    return torch.empty((splits, length), dtype=torch.float32, device=x.device)


def split_evenly(tiles: int, wanted: int) -> tuple[int, int]:
    """(tiles per split, splits): at most `wanted` splits, none of them empty."""
    per_split = triton.cdiv(tiles, max(1, wanted))
    return per_split, triton.cdiv(tiles, per_split)


def architecture(device: torch.device) -> int:
    """The row of the configuration tables for a device: 75, 80, 86, 90 or 100."""
    if device.type != "cuda":
        return 80  # the interpreter
    major, minor = torch.cuda.get_device_capability(device)
    if major in (9, 10):
        return major * 10
    if major < 8:
        return 75
    # 8.6, 8.9, 11.x and 12.x are served by the tiles for 99 KB of shared memory.
    return 80 if (major, minor) in ((8, 0), (8, 7)) else 86


def power_of_two(n: int, low: int) -> int:
    return max(low, triton.next_power_of_2(n))
