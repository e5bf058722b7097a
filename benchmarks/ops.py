"""The ops under test: their parameters and the usual eager module's code for each.

The eager functions are what people run today, written as their modules write it: the yardstick of
speed. The yardstick of correctness is `attn_kernels.reference` in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F

KERNEL_SIZE = 7
GAM_RATE = 4


def channel_pool(x):
    return torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)


def spatial_attention(x, weight):
    return torch.sigmoid(F.conv2d(channel_pool(x), weight, padding=KERNEL_SIZE // 2))


def spatial_gate(x, weight):
    return x * spatial_attention(x, weight)


def gam_channel_gate(x, w1, b1, w2, b2):
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    attention = F.linear(F.relu(F.linear(pixels, w1, b1)), w2, b2)
    return x * attention.view(n, h, w, c).permute(0, 3, 1, 2)


def scale_gate(x, a, scale, shift):
    """The tail of GAM's spatial branch: an evaluated BatchNorm, a sigmoid and the product."""
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    return x * torch.sigmoid(F.batch_norm(a, mean, variance, scale, shift, eps=0.0))


def no_parameters(shape):
    return ()


def spatial_parameters(shape):
    return ((1, 2, KERNEL_SIZE, KERNEL_SIZE),)


def gam_parameters(shape):
    c = shape[1]
    r = max(1, c // GAM_RATE)
    return ((r, c), (r,), (c, r), (c,))


def keep_off_the_kink(w1, b1, w2, b2):
    """Hidden units clearly on or clearly off: w1 @ x stays within six times its deviation."""
    w1 /= 2
    b1.copy_(3 * b1.sign())


def scale_parameters(shape):
    return (shape, (shape[1],), (shape[1],))


@dataclasses.dataclass(frozen=True)
class Op:
    """Called as eager(x, *parameters), and by this name in attn_kernels.functional."""

    eager: Callable[..., torch.Tensor]
    parameter_shapes: Callable[[tuple[int, ...]], tuple[tuple[int, ...], ...]]
    shapes: str  # the set of benchmarks.cases.SHAPES that it is measured on
    settle: Callable[..., None] = lambda *parameters: None  # see make_inputs

    @property
    def name(self) -> str:
        return self.eager.__name__


OPS = {
    op.name: op
    for op in (
        Op(spatial_gate, spatial_parameters, "resnet"),
        Op(spatial_attention, spatial_parameters, "resnet"),
        Op(channel_pool, no_parameters, "resnet"),
        Op(gam_channel_gate, gam_parameters, "gam", keep_off_the_kink),
        Op(scale_gate, scale_parameters, "gam"),
    )
}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """x and the parameters, all leaves that want gradients, and the gradient of the result."""

    x: torch.Tensor
    parameters: tuple[torch.Tensor, ...]
    dy: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.x, *self.parameters)

    def double(self) -> Inputs:
        def widened(t):
            return t.detach().double().requires_grad_(t.requires_grad)

        return Inputs(
            widened(self.x), tuple(map(widened, self.parameters)), self.dy.detach().double()
        )


def make_inputs(op: Op, shape, dtype, layout, device, seed: int = 0) -> Inputs:
    """Random tensors: x standard normal, parameters scaled so that results are of order one, and
    settled so that rounding does not decide which gradient is right.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(size, scale=1.0):
        return (torch.randn(size, generator=generator) * scale).to(device, dtype)

    x = clear_maximum(normal(shape)).contiguous(memory_format=layout)
    parameters = []
    for size in op.parameter_shapes(shape):
        fan_in = max(1, size[-1]) if len(size) == 2 else 1
        value = normal(size, fan_in**-0.5 if len(size) < 4 else 1 / KERNEL_SIZE)
        if size == shape:
            value = value.contiguous(memory_format=layout)
        parameters.append(torch.nn.Parameter(value))
    with torch.no_grad():
        op.settle(*parameters)
        y = op.eager(x, *parameters)
    dy = normal(y.shape).contiguous(memory_format=layout)
    return Inputs(x.requires_grad_(), tuple(parameters), dy)


def clear_maximum(x: torch.Tensor) -> torch.Tensor:
    """Lift each pixel's first maximum by a quarter, so that no tie decides who takes its gradient.

    Half precision is full of ties, and peers differ in what they do with them; tests/ has them.
    """
    value, channel = x.max(1, keepdim=True)
    return x.scatter(1, channel, value + 0.25)
