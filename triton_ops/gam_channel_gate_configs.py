"""The tiles of gam_channel_gate's kernels, per architecture and per width of the hidden layer.

The width R decides: a row of hidden units lies in registers, while C is only the length of a loop.
They come from compile-time figures, with C = 4 R: the largest tile of a list that does not spill
and whose shared memory fits, which `tests/test_triton_compile.py` holds. None has been timed.

Rows of the tables (`ROWS` says which architecture takes which):
    80    mma.sync (Ampere, Ada, consumer Blackwell), within the 99 KB that all of these have
    90    wgmma (Hopper), 227 KB
    100   tcgen05 (data-centre Blackwell), 227 KB
Columns: "half" (16-bit operands) and "tf32" use matrix units. "simt" does without them: it serves
exact float32 everywhere, and all types before Ampere, with one set of tiles within 64 KB. There the
arithmetic is the limit and reading x twice is not, so wide layers take the two-kernel path early.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Tile:
    pixels: int
    channels: int  # in the two-kernel path's products: columns of the result
    hidden: int  # in the two-kernel path's products: terms per step of the inner product
    warps: int
    stages: int


ROWS = {75: 80, 80: 80, 86: 80, 90: 90, 100: 100}

# {(row, arithmetic): {R: tile}}; R is R's power of two, at least 16.
FORWARD = {
    (80, "half"): {
        16: Tile(128, 64, 16, 4, 3),
        32: Tile(128, 64, 32, 4, 2),
        64: Tile(128, 64, 64, 4, 3),
        128: Tile(128, 64, 128, 8, 3),
        256: Tile(64, 64, 256, 8, 2),
    },
    (80, "tf32"): {
        16: Tile(128, 32, 16, 4, 3),
        32: Tile(128, 32, 32, 4, 3),
        64: Tile(128, 32, 64, 4, 3),
        128: Tile(64, 64, 128, 8, 2),
    },
    (90, "half"): {
        16: Tile(128, 64, 16, 4, 3),
        32: Tile(128, 64, 32, 4, 3),
        64: Tile(64, 64, 64, 4, 3),
        128: Tile(128, 64, 128, 8, 3),
        256: Tile(128, 32, 256, 8, 3),
    },
    (90, "tf32"): {
        16: Tile(128, 32, 16, 4, 3),
        32: Tile(128, 32, 32, 4, 3),
        64: Tile(128, 32, 64, 4, 2),
        128: Tile(128, 32, 128, 8, 3),
    },
    (100, "half"): {
        16: Tile(128, 64, 16, 4, 3),
        32: Tile(128, 64, 32, 4, 3),
        64: Tile(128, 64, 64, 4, 3),
        128: Tile(128, 64, 128, 8, 3),
        256: Tile(128, 32, 256, 8, 3),
    },
}
FORWARD_SIMT = {16: Tile(64, 32, 16, 4, 2), 32: Tile(64, 32, 32, 4, 2), 64: Tile(64, 32, 64, 8, 2)}

BACKWARD = {
    (80, "half"): {
        16: Tile(128, 64, 16, 4, 3),
        32: Tile(128, 32, 32, 4, 3),
        64: Tile(128, 16, 64, 4, 2),
        128: Tile(128, 16, 128, 8, 2),
        256: Tile(64, 16, 256, 8, 2),
    },
    (80, "tf32"): {
        16: Tile(64, 32, 16, 4, 3),
        32: Tile(128, 32, 32, 4, 2),
        64: Tile(128, 32, 64, 8, 2),
        128: Tile(32, 32, 128, 8, 2),
    },
    (90, "half"): {
        16: Tile(64, 32, 16, 4, 3),
        32: Tile(64, 32, 32, 4, 3),
        64: Tile(64, 32, 64, 4, 2),
        128: Tile(128, 32, 128, 8, 3),
        256: Tile(64, 32, 256, 8, 3),
    },
    (90, "tf32"): {
        16: Tile(128, 32, 16, 4, 3),
        32: Tile(128, 16, 32, 4, 2),
        64: Tile(128, 32, 64, 8, 3),
        128: Tile(128, 16, 128, 8, 2),
    },
    (100, "half"): {
        16: Tile(128, 32, 16, 4, 3),
        32: Tile(128, 64, 32, 4, 2),
        64: Tile(128, 32, 64, 4, 2),
        128: Tile(128, 32, 128, 8, 3),
        256: Tile(64, 32, 256, 8, 3),
    },
}
BACKWARD_SIMT = {16: Tile(64, 16, 16, 4, 2), 32: Tile(64, 16, 32, 4, 2), 64: Tile(64, 16, 64, 8, 2)}

# Weight gradients that make the sigmoid's gate again, and so hold all of R.
SIGMOID_WEIGHTS = {
    (80, "half"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(32, 64, 32, 4, 3),
        64: Tile(32, 64, 64, 8, 2),
        128: Tile(64, 64, 128, 8, 2),
        256: Tile(32, 32, 256, 8, 2),
    },
    (80, "tf32"): {
        16: Tile(64, 64, 16, 4, 2),
        32: Tile(32, 64, 32, 4, 2),
        64: Tile(32, 32, 64, 4, 2),
        128: Tile(32, 32, 128, 8, 2),
    },
    (90, "half"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(32, 64, 32, 4, 3),
        64: Tile(32, 64, 64, 8, 2),
        128: Tile(32, 64, 128, 8, 2),
        256: Tile(32, 32, 256, 8, 2),
    },
    (90, "tf32"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(64, 64, 32, 4, 3),
        64: Tile(32, 64, 64, 4, 3),
        128: Tile(32, 64, 128, 8, 3),
    },
    (100, "half"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(32, 64, 32, 4, 3),
        64: Tile(64, 64, 64, 4, 3),
        128: Tile(32, 64, 128, 8, 2),
        256: Tile(32, 32, 256, 8, 2),
    },
    (100, "tf32"): {
        16: Tile(32, 64, 16, 8, 3),
        32: Tile(32, 64, 32, 8, 3),
        64: Tile(32, 32, 64, 8, 2),
        128: Tile(32, 64, 128, 8, 3),
    },
}
SIGMOID_WEIGHTS_SIMT = {
    16: Tile(16, 64, 16, 8, 2),
    32: Tile(16, 64, 32, 8, 2),
    64: Tile(16, 64, 64, 8, 2),
}

# Weight gradients of wider layers take R in tiles of the last entry: each is one more reading of x
# and dy from L2, which is why Hopper's are large.
WEIGHTS = {
    (80, "half"): {
        16: Tile(64, 64, 16, 4, 2),
        32: Tile(64, 64, 32, 4, 3),
        64: Tile(32, 64, 64, 4, 2),
    },
    (80, "tf32"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(64, 64, 32, 4, 2),
        64: Tile(32, 64, 64, 4, 3),
    },
    (90, "half"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(64, 64, 32, 4, 3),
        64: Tile(64, 64, 64, 4, 3),
        128: Tile(64, 128, 128, 8, 3),
    },
    (90, "tf32"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(64, 64, 32, 4, 3),
        64: Tile(32, 64, 64, 4, 3),
    },
    (100, "half"): {
        16: Tile(64, 64, 16, 4, 3),
        32: Tile(64, 64, 32, 4, 3),
        64: Tile(32, 64, 64, 4, 3),
    },
}
WEIGHTS_SIMT = {16: Tile(16, 32, 16, 8, 2), 32: Tile(16, 64, 32, 8, 2)}

# The products of the two-kernel path.
GEMM = {
    (80, "half"): Tile(64, 64, 64, 4, 2),
    (80, "tf32"): Tile(64, 64, 32, 4, 3),
    (90, "half"): Tile(64, 64, 64, 4, 3),
    (90, "tf32"): Tile(64, 64, 32, 4, 3),
}
GEMM_SIMT = Tile(64, 64, 16, 8, 2)

# Where elements are loaded one by one their addresses fill the registers: small tiles, for every
# architecture.
SCALAR_GEMM = Tile(64, 64, 32, 8, 2)
SCALAR_WEIGHTS = {16: Tile(32, 32, 16, 8, 2), 32: Tile(32, 64, 32, 8, 2)}

# Blackwell's rows are Hopper's where nothing else is said.
for arithmetic in ("half", "tf32"):
    for table in (FORWARD, BACKWARD, SIGMOID_WEIGHTS, WEIGHTS):
        table.setdefault((100, arithmetic), table[90, arithmetic])
    GEMM.setdefault((100, arithmetic), GEMM[90, arithmetic])


def one_kernel_tile(direction: str, arch: int, arithmetic: str, width: int) -> Tile | None:
    """The tile for a hidden layer of `width`, or None past the widest that stays in registers."""
    if arithmetic == "simt":
        return (FORWARD_SIMT if direction == "forward" else BACKWARD_SIMT).get(width)
    return (FORWARD if direction == "forward" else BACKWARD)[ROWS[arch], arithmetic].get(width)


def gemm_tile(arch: int, arithmetic: str, scalar_loads: bool) -> Tile:
    if arithmetic == "simt":
        return GEMM_SIMT
    return SCALAR_GEMM if scalar_loads else GEMM[ROWS[arch], arithmetic]


def weight_gradient_tile(
    arch: int, arithmetic: str, scalar_loads: bool, da_is: str, width: int
) -> Tile:
    if da_is == "sigmoid":  # only the one-kernel path asks for it, so its table has the same widths
        table = (
            SIGMOID_WEIGHTS_SIMT
            if arithmetic == "simt"
            else SIGMOID_WEIGHTS[ROWS[arch], arithmetic]
        )
        return table[width]
    if arithmetic == "simt":
        table = WEIGHTS_SIMT
    else:
        table = SCALAR_WEIGHTS if scalar_loads else WEIGHTS[ROWS[arch], arithmetic]
    return table[min(width, max(table))]
