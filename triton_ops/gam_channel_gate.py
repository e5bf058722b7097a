"""GAM's channel gate: y = x * (w2 @ relu(w1 @ x + b1) + b2) per pixel, forward and backward, on the
map as it lies.

Traffic, with N the bytes of x and R = C / 4 (each map read or written once, second readings found
in L2):

    forward    one kernel: x, y, hidden                     2.25 N
               two kernels: x and hidden again              3.5 N
    backward   d_pre and dx: dy, x, hidden, d_pre, dx       3.5 N
               weight gradients: dy, x, hidden, d_pre       2.5 N, and the partial sums

Saved for the backward beside x: hidden, in x's dtype, 0.25 N.
"""

from __future__ import annotations

import dataclasses

import torch
import triton

from .common import (
    MapLayout,
    architecture,
    like,
    native,
    new_map,
    new_partials,
    power_of_two,
    split_evenly,
    sum_partials,
)
from .gam_channel_gate_configs import Tile, gemm_tile, one_kernel_tile, weight_gradient_tile
from .gam_channel_gate_kernels import (
    gam_backward_kernel,
    gam_d_pre_kernel,
    gam_forward_kernel,
    gam_gate_kernel,
    gam_hidden_kernel,
    gam_weight_gradient_kernel,
)

# Programs that the weight gradients are split into, about two for each multiprocessor of a large
# GPU. It does not follow the device, so that every device sums in the same splits.
WEIGHT_GRADIENT_PROGRAMS = 256


@dataclasses.dataclass(frozen=True)
class Gate:
    """One call's layout, sizes and arithmetic."""

    layout: MapLayout
    channels: int
    hidden: int
    sigmoid: bool
    arch: int
    arithmetic: str  # see gam_channel_gate_configs

    @staticmethod
    def of(x: torch.Tensor, w1: torch.Tensor, activation: str) -> Gate:
        arch = architecture(x.device)
        return Gate(
            layout=MapLayout.of(x),
            channels=x.shape[1],
            hidden=w1.shape[0],
            sigmoid=activation == "sigmoid",
            arch=arch,
            arithmetic=arithmetic_of(x.dtype, arch),
        )

    @property
    def width(self) -> int:
        """R as a tile holds it."""
        return power_of_two(self.hidden, 16)

    @property
    def scalar_loads(self) -> bool:
        """Whether HW (like 49), C or R makes some operand come element by element."""
        return not (
            self.layout.vector(self.channels) >= 4
            and self.channels % 8 == 0
            and self.hidden % 4 == 0
        )

    def options(self, tile: Tile) -> dict:
        """Keyword arguments that every kernel of the gate takes."""
        return self.layout.arguments(tile.pixels) | {
            "C": self.channels,
            "R": self.hidden,
            "PRECISION": "ieee" if self.arithmetic == "simt" else "tf32",
            "P": tile.pixels,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }

    def one_kernel(self, direction: str) -> Tile | None:
        """The tile of the kernel that does all of a pixel; None where the two-kernel path serves.

        One kernel reads x from device memory once, but makes only one program per tile of pixels,
        and holds a whole row of hidden units in registers. Below about 8k pixels its programs do
        not fill a GPU, while the two-kernel path multiplies them by the tiles of channels. Past the
        widths in the table, or where every element loaded takes an address of its own, its
        registers spill.
        """
        if self.layout.pixels < 8192 or self.channels > 1024 or self.scalar_loads:
            return None
        return one_kernel_tile(direction, self.arch, self.arithmetic, self.width)


def arithmetic_of(dtype: torch.dtype, arch: int) -> str:
    """How products are made: "half" and "tf32" on matrix units, "simt" without them, which is exact
    in float32.
    """
    if arch < 80:  # where Triton has no matrix instructions
        return "simt"
    if dtype != torch.float32:
        return "half"
    # fp32_precision follows allow_tf32, which may not be read once the newer switch has been set.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "simt"


def gam_channel_gate(
    x: torch.Tensor,  # (N, C, H, W), any strides; NCHW and channels_last are native
    w1: torch.Tensor,  # (R, C)
    b1: torch.Tensor,  # (R)
    w2: torch.Tensor,  # (C, R)
    b2: torch.Tensor,  # (C)
    activation: str,  # "identity" or "sigmoid"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, hidden): the gated map, and hidden (N, R, H, W) for the backward; both in x's dtype and
    memory format.
    """
    x = native(x)
    gate = Gate.of(x, w1, activation)
    y = new_map(x, gate.channels, gate.layout)
    hidden = new_map(x, gate.hidden, gate.layout)
    if gate.layout.pixels == 0:
        return y, hidden
    w1, b1, w2, b2 = operands(x, w1, b1, w2, b2)
    with torch.cuda.device_of(x):
        tile = gate.one_kernel("forward")
        if tile is not None:
            gam_forward_kernel[(triton.cdiv(gate.layout.pixels, tile.pixels),)](
                *(x, w1, b1, w2, b2, y, hidden),
                SIGMOID=gate.sigmoid,
                BC=tile.channels,
                BR=tile.hidden,
                **gate.options(tile),
            )
        else:
            launch_gemm(gate, gam_hidden_kernel, gate.hidden, x, w1, b1, hidden)
            launch_gate(gate, "y", None, x, hidden, None, w1, w2, b2, y)
    return y, hidden


def gam_channel_gate_backward(
    dy: torch.Tensor,  # (N, C, H, W), any strides
    x: torch.Tensor,
    hidden: torch.Tensor,  # as the forward returned it
    w1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    activation: str,
) -> tuple[torch.Tensor, ...]:
    """(dx, d_w1, d_b1, d_w2, d_b2): dx in x's dtype and memory format, the parameters' gradients in
    float32.
    """
    x = native(x)
    gate = Gate.of(x, w1, activation)
    dx = new_map(x, gate.channels, gate.layout)
    if gate.layout.pixels == 0:
        shapes = w1.shape, w1.shape[:1], w2.shape, b2.shape
        return dx, *(torch.zeros(s, dtype=torch.float32, device=x.device) for s in shapes)
    dy, hidden = like(dy.to(x.dtype), gate.layout), like(hidden, gate.layout)
    d_pre = new_map(x, gate.hidden, gate.layout)
    w1, w2, b2 = operands(x, w1, w2, b2)
    with torch.cuda.device_of(x):
        tile = gate.one_kernel("backward")
        if tile is not None:
            gam_backward_kernel[(triton.cdiv(gate.layout.pixels, tile.pixels),)](
                *(dy, x, hidden, w1, w2, b2, dx, d_pre),
                SIGMOID=gate.sigmoid,
                BC=tile.channels,
                BR=tile.hidden,
                **gate.options(tile),
            )
            da, da_is = dy, "sigmoid" if gate.sigmoid else "product"
        else:
            da, da_is = dy, "product"
            if gate.sigmoid:  # its gate needs all of hidden: made once here, read twice
                da, da_is = new_map(x, gate.channels, gate.layout), "given"
                launch_gate(gate, "da", dy, x, hidden, None, w1, w2, b2, da)
            launch_gemm(
                gate,
                gam_d_pre_kernel,
                gate.hidden,
                da,
                x,
                hidden,
                w2,
                d_pre,
                IS_PRODUCT=da_is == "product",
            )
            launch_gate(gate, "dx", dy, x, hidden, d_pre, w1, w2, b2, dx)
        gradients = weight_gradients(gate, da, da_is, x, hidden, d_pre, w2, b2)
    return dx, *gradients


def operands(x: torch.Tensor, *parameters: torch.Tensor) -> list[torch.Tensor]:
    """Contiguous parameters: matrices in x's dtype, as they are multiplied with x; biases as they
    come, since their kernels widen them."""
    return [(p.to(x.dtype) if p.ndim == 2 else p).contiguous() for p in parameters]


def launch_gemm(gate: Gate, kernel, columns: int, *args: torch.Tensor, **options) -> None:
    """Launch a kernel of the two-kernel path: a program per tile of pixels and of `columns`."""
    tile = gemm_tile(gate.arch, gate.arithmetic, gate.scalar_loads)
    grid = (triton.cdiv(gate.layout.pixels, tile.pixels) * triton.cdiv(columns, tile.channels),)
    kernel[grid](*args, BN=tile.channels, BK=tile.hidden, **options, **gate.options(tile))


def launch_gate(
    gate: Gate, output: str, dy, x, hidden, d_pre, w1, w2, b2, out: torch.Tensor
) -> None:
    """Launch `gam_gate_kernel`; tensors that this output does not read are None."""
    maps = (x if t is None else t for t in (dy, x, hidden, d_pre))
    launch_gemm(
        gate,
        gam_gate_kernel,
        gate.channels,
        *maps,
        w1,
        w2,
        b2,
        out,
        OUTPUT=output,
        SIGMOID=gate.sigmoid,
    )


def weight_gradients(gate: Gate, da, da_is: str, x, hidden, d_pre, w2, b2) -> list[torch.Tensor]:
    """d_w1, d_b1, d_w2, d_b2: partial sums over splits of the pixels, then the ordered sum of the
    splits.
    """
    channels, width = gate.channels, gate.hidden
    tile = weight_gradient_tile(gate.arch, gate.arithmetic, gate.scalar_loads, da_is, gate.width)
    columns = triton.cdiv(channels, tile.channels), triton.cdiv(width, tile.hidden)
    pixel_tiles = triton.cdiv(gate.layout.pixels, tile.pixels)
    tiles_per_split, splits = split_evenly(
        pixel_tiles, WEIGHT_GRADIENT_PROGRAMS // (columns[0] * columns[1])
    )
    partials = new_partials(x, splits, 2 * channels * width + channels + width)
    grid = (*columns, splits)
    gam_weight_gradient_kernel[grid](
        *(da, x, hidden, d_pre, w2, b2, partials),
        tiles_per_split=tiles_per_split,
        DA=da_is,
        BC=tile.channels,
        BR=tile.hidden,
        **gate.options(tile),
    )
    return sum_partials(partials, [(width, channels), (width,), (channels, width), (channels,)])
