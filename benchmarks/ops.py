"""The ops under test: their parameters and the usual eager module's code for each.

The eager functions are what people run today, written as their modules write it: the yardstick of
speed. The yardstick of correctness is `attn_kernels.reference` in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

import attn_kernels as ak

KERNEL_SIZE = 7
GAM_RATE = 4
SE_RATIO = CBAM_RATIO = 16
SE_LEAST_HIDDEN = 8


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


def squeeze_excite(x, w1, b1, w2, b2):
    mean = x.mean((2, 3), keepdim=True)
    return x * torch.sigmoid(F.conv2d(F.relu(F.conv2d(mean, w1, b1)), w2, b2))


def cbam(x, w1, w2, weight):
    mean, maximum = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
    logits = (F.conv2d(F.relu(F.conv2d(pooled, w1)), w2) for pooled in (mean, maximum))
    return spatial_gate(x * torch.sigmoid(sum(logits)), weight)


def se_tail(*arguments):
    return tail(squeeze_excite, *arguments)


def spatial_tail(*arguments):
    return tail(spatial_gate, *arguments)


def cbam_tail(*arguments):
    return tail(cbam, *arguments)


def tail(gate, x, residual, gamma, beta, *gate_parameters):
    """The end of a residual block, after its last convolution."""
    return F.relu(gate(trained_norm(x, gamma, beta), *gate_parameters) + residual)


def trained_norm(x, gamma, beta):
    """Batch normalisation as it is in training: by the statistics of this batch."""
    return F.batch_norm(x, None, None, gamma, beta, training=True)


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


def squeeze_excite_parameters(shape):
    c = shape[1]
    r = max(c // SE_RATIO, SE_LEAST_HIDDEN)
    return ((r, c, 1, 1), (r,), (c, r, 1, 1), (c,))


def cbam_parameters(shape):
    c = shape[1]
    r = max(1, c // CBAM_RATIO)
    return ((r, c, 1, 1), (c, r, 1, 1), *spatial_parameters(shape))


def tail_parameters(parameter_shapes):
    """The residual, the norm's weight and bias, and the gate's."""
    return lambda shape: (shape, (shape[1],), (shape[1],), *parameter_shapes(shape))


def keep_the_maximum(w1, w2, weight):
    """A channel gate that is nearly the same in all channels: a pixel's maximum stays clear."""
    w2 /= 10


def settle_tail(residual, gamma, beta, *gate_parameters):
    """y off ReLU's kink, by a residual that is larger than the gated map; a maximum that stays."""
    residual.copy_(8 * residual.sign())
    gamma.copy_(1 + gamma / 50)
    beta /= 50


def settle_cbam_tail(residual, gamma, beta, *gate_parameters):
    settle_tail(residual, gamma, beta)
    keep_the_maximum(*gate_parameters)


@dataclasses.dataclass(frozen=True)
class Op:
    """Called as eager(x, *parameters). Ours is the function of that name in attn_kernels.functional
    or, where there is `module`, the module that it makes for a number of channels: its parameters,
    in their order, are the last of ours; what comes before them is handed to it beside x.
    """

    eager: Callable[..., torch.Tensor]
    parameter_shapes: Callable[[tuple[int, ...]], tuple[tuple[int, ...], ...]]
    shapes: str  # the set of benchmarks.cases.SHAPES that it is measured on
    settle: Callable[..., None] = lambda *parameters: None  # see make_inputs
    module: Callable[[int], torch.nn.Module] | None = None
    kernel: str = ""  # the op whose backend serves it, where that has another name
    gate: str = ""  # of a tail: the op of its gate

    @property
    def name(self) -> str:
        return self.eager.__name__

    @property
    def served_as(self) -> str:
        return self.kernel or self.name

    @property
    def truth(self) -> Callable[..., torch.Tensor]:
        """For float64."""
        return self.eager if self.module else getattr(ak.reference, self.name)

    def ours(self, x: torch.Tensor, parameters: tuple) -> Callable[..., torch.Tensor]:
        if self.module is None:
            return getattr(ak.functional, self.name)
        module = self.module(x.shape[1])
        slots = [(holder, name) for holder in module.modules() for name in holder._parameters]
        slots = [(holder, name) for holder, name in slots if getattr(holder, name) is not None]
        operands = len(parameters) - len(slots)
        for (holder, name), value in zip(slots, parameters[operands:], strict=True):
            setattr(holder, name, value)
        return lambda x, *tensors: module(x, *tensors[:operands])

    def with_our_gate(self, x: torch.Tensor, parameters: tuple) -> Callable[..., torch.Tensor]:
        """A tail of PyTorch's own norm, addition and ReLU around our gate."""
        gate_parameters = parameters[3:]
        return functools.partial(tail, OPS[self.gate].ours(x, gate_parameters))


def tail_of(gate: Callable[[int], torch.nn.Module]) -> Callable[[int], torch.nn.Module]:
    """The end of a residual block; without running statistics, as `trained_norm`."""

    def build(channels: int) -> torch.nn.Module:
        norm = torch.nn.BatchNorm2d(channels, track_running_stats=False)
        return ak.nn.Tail(norm, gate(channels))

    return build


def spatial_module(channels: int) -> torch.nn.Module:
    return ak.SpatialGate(KERNEL_SIZE)


def cbam_module(channels: int) -> torch.nn.Module:
    return ak.CBAM(channels, min(CBAM_RATIO, channels), KERNEL_SIZE)


OPS = {
    op.name: op
    for op in (
        Op(spatial_gate, spatial_parameters, "resnet"),
        Op(spatial_attention, spatial_parameters, "resnet"),
        Op(channel_pool, no_parameters, "resnet"),
        Op(gam_channel_gate, gam_parameters, "gam", keep_off_the_kink),
        Op(scale_gate, scale_parameters, "gam"),
        Op(squeeze_excite, squeeze_excite_parameters, "gates"),
        Op(
            cbam,
            cbam_parameters,
            "gates",
            keep_the_maximum,
            cbam_module,
            kernel="spatial_gate",
        ),
        Op(
            se_tail,
            tail_parameters(squeeze_excite_parameters),
            "gates",
            settle_tail,
            tail_of(ak.SqueezeExcite),
            kernel="affine_gate",
            gate="squeeze_excite",
        ),
        Op(
            spatial_tail,
            tail_parameters(spatial_parameters),
            "gates",
            settle_tail,
            tail_of(spatial_module),
            kernel="spatial_gate",
            gate="spatial_gate",
        ),
        Op(
            cbam_tail,
            tail_parameters(cbam_parameters),
            "gates",
            settle_cbam_tail,
            tail_of(cbam_module),
            kernel="spatial_gate",
            gate="cbam",
        ),
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
        fan_in = math.prod(size[1:]) if size != shape else 1
        value = normal(size, fan_in**-0.5)
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
