"""What is measured: ops x shapes x dtypes x layouts, each in some modes.

This is the only list of cases: the command line, the pytest-benchmark suite, `make gpu-check` and
the memory-counter runs all take theirs from here.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import torch

from .errors import InputError
from .ops import OPS

Shape = tuple[int, int, int, int]  # N, C, H, W

MODES = ("fwd", "bwd", "full")  # inference; the backward alone; forward and backward
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}

SHAPES: dict[str, tuple[Shape, ...]] = {
    "resnet": (
        (8, 64, 112, 112),
        (8, 256, 56, 56),
        (8, 512, 28, 28),
        (8, 1024, 14, 14),
        (8, 2048, 7, 7),
    ),
    "gam": ((8, 64, 56, 56), (8, 256, 28, 28), (8, 512, 14, 14)),
    "gates": ((8, 64, 112, 112), (8, 256, 56, 56), (8, 512, 28, 28)),
    "vgg": (  # what VGG16's five stages hand to their gates
        (4, 64, 112, 112),
        (4, 128, 56, 56),
        (4, 256, 28, 28),
        (4, 512, 14, 14),
        (4, 512, 7, 7),
    ),
    "cifar": (  # many small images, and the statistics of such
        (256, 16, 32, 32),
        (256, 64, 16, 16),
        (256, 256, 8, 8),
        (256, 512, 4, 4),
        (512, 512, 1, 1),
    ),
    "highres": ((2, 64, 512, 512),),
    "tiny": ((1, 8, 4, 4),),  # nothing to compute: the host's cost of a call
}
CUDA_BATCH = 32
FIXED_BATCH = ("cifar", "highres", "tiny")


@dataclasses.dataclass(frozen=True)
class Setup:
    """One set of tensors; its modes share them."""

    op: str
    shape: Shape
    dtype: str
    layout: str = "nchw"

    @property
    def label(self) -> str:
        layout = "" if self.layout == "nchw" else f" {self.layout}"
        return f"{self.op} {shape_text(self.shape)} {self.dtype}{layout}"


def shape_text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def shape_set(name: str, device: str) -> tuple[Shape, ...]:
    """A named set; on CUDA with the larger batch that fills one."""
    if device != "cuda" or name in FIXED_BATCH:
        return SHAPES[name]
    return tuple((CUDA_BATCH, c, h, w) for _, c, h, w in SHAPES[name])


def parse_shapes(text: str, device: str) -> list[Shape]:
    """`resnet,tiny,8x64x56x56` -> shapes, each once."""
    shapes: list[Shape] = []
    for word in words(text):
        if word in SHAPES:
            shapes += shape_set(word, device)
        elif re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", word):
            n, c, h, w = map(int, word.split("x"))
            shapes.append((n, c, h, w))
        else:
            raise InputError(
                f"--shapes: {word!r} is neither a set ({', '.join(SHAPES)}) nor a shape such as "
                "8x64x56x56"
            )
    return list(dict.fromkeys(shapes))


def parse_names(option: str, text: str, known) -> list[str]:
    """`a,b` -> names, each once, all of them known."""
    for name in words(text):
        if name not in known:
            raise InputError(f"{option}: {name!r} is unknown; choose from {', '.join(known)}")
    return list(dict.fromkeys(words(text)))


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def setups(
    ops: list[str], shapes: str | None, dtypes: list[str], layouts: list[str], device: str
) -> list[Setup]:
    """The product; without `shapes`, each op takes its own set and the host-cost shape."""
    return [
        Setup(op, shape, dtype, layout)
        for dtype, layout, op in itertools.product(dtypes, layouts, ops)
        for shape in parse_shapes(shapes or f"{OPS[op].shapes},tiny", device)
    ]


DEFAULT_OPS = (
    *("spatial_gate", "gam_channel_gate", "squeeze_excite", "cbam"),
    *("se_tail", "spatial_tail", "cbam_tail"),
)
DEFAULT_MODES = ("fwd", "full")


def default_setups(device: str) -> list[Setup]:
    """What `make bench` and the pytest-benchmark suite measure."""
    dtypes = ["float32"] if device == "cpu" else ["float32", "float16"]
    return setups(list(DEFAULT_OPS), None, dtypes, ["nchw"], device)
