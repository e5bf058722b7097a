"""A copy of a module to try things on: on the CPU, in float64, with parameters that are not 0."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .trace import NotFusedError, first_line

BATCH = 2
# (H, W) that a module may take: odd first, then square, then large enough for strides.
SIZES = ((7, 5), (7, 7), (32, 32), (65, 65))
HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


@dataclass(frozen=True)
class Shapes:
    """What a module takes: so many maps, so many channels, of the first size or the second."""

    inputs: int
    channels: int
    sizes: tuple[tuple[int, int], tuple[int, int]]

    @property
    def square(self) -> bool:
        """Whether only square maps were found to be taken."""
        return all(h == w for h, w in self.sizes)

    def random(self, which: int) -> list[torch.Tensor]:
        h, w = self.sizes[which]
        return [random_map(BATCH, self.channels, h, w) for _ in range(self.inputs)]


def random_map(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, device="cpu")


@contextmanager
def own_randomness() -> Iterator[None]:
    """Random numbers that are the same in every run, and none of the user's are used up."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        yield


def specimen(module: nn.Module) -> nn.Module:
    """A copy without hooks. Parameters are random: a proof by zeros (the last normalisation of a
    block begins with them) would prove nothing.
    """
    hooks = [getattr(m, name, None) for m in module.modules() for name in HOOKS]
    memo: dict[int, Any] = {id(hook): OrderedDict() for hook in hooks if hook is not None}
    try:
        double = copy.deepcopy(module, memo).to("cpu", torch.float64)
    except Exception as error:
        raise NotFusedError(f"cannot be copied: {first_line(error)}") from error
    for m in double.modules():
        if type(m) is nn.SyncBatchNorm:  # which serves no CPU
            m.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    for p in double.parameters():
        if p.is_floating_point():
            fan_in = max(p[0].numel() if p.dim() > 1 else 1, 1)
            p.data = torch.randn_like(p) / fan_in**0.5
            p.requires_grad_()
    for name, buffer in double.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return double


def find_shapes(module: nn.Module, inputs: int) -> Shapes:
    """Maps that the module takes, found by trying."""
    module.eval()
    for channels in candidates(module):
        for h, w in SIZES:
            shapes = Shapes(inputs, channels, ((h, w), (h + 2, w + (4 if h != w else 2))))
            if all(_takes(module, shapes, which) for which in (0, 1)):
                return shapes
    raise NotFusedError("no map was found that it takes")


def _takes(module: nn.Module, shapes: Shapes, which: int) -> bool:
    given = shapes.random(which)
    before = [x.clone() for x in given]
    try:
        with torch.no_grad():
            module(*given)
    except Exception:  # whatever a user's forward raises for the wrong shape
        return False
    if not all(map(torch.equal, given, before)):
        raise NotFusedError("changes its input in place")
    return True


def candidates(module: nn.Module) -> list[int]:
    """Numbers of channels to try: what layers say that they take, any size of a parameter, 8, and
    so many for each of the groups or halves that the module has numbers for.
    """
    found: dict[int, None] = {}
    for m in module.modules():
        for name in ("in_channels", "in_features", "num_features", "num_channels"):
            if isinstance(getattr(m, name, None), int):
                found[getattr(m, name)] = None
    for p in module.parameters():
        found |= dict.fromkeys(p.shape)
    sizes = [c for c in found if c > 1][:16]
    counts = {v for v in module.__dict__.values() if isinstance(v, int) and v > 1}
    parts = [size * k * count for size in sizes for count in counts for k in (1, 2)]
    return [*sizes, 8, *parts[:16]]
