"""The ops under test, each with the usual eager module's code, its parameters, and ours.

The eager functions (`eager.py`) are the yardstick of speed. The yardstick of correctness is
`attn_kernels.reference` in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import torch

import attn_kernels as ak

from . import eager
from .eager import BAM_DILATION, KERNEL_SIZE, SIMAM_LAMBDA, tail

GAM_RATE = 4
AFF_RATIO = 4
SE_RATIO = CBAM_RATIO = BAM_RATIO = 16
COORDINATE_RATIO = 32
SE_LEAST_HIDDEN = COORDINATE_LEAST_HIDDEN = 8


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


def spatial_se_parameters(shape):
    return ((1, shape[1], 1, 1),)


def spatial_channel_se_parameters(shape):
    c = shape[1]
    return ((c // 2, c, 1, 1), (c, c // 2, 1, 1), *spatial_se_parameters(shape))


def bam_parameters(shape):
    c = shape[1]
    r = bam_hidden(c)
    kernels = ((r, c, 1, 1), (r, r, 3, 3), (r, r, 3, 3))
    spatial = (parameter for kernel in kernels for parameter in (kernel, (r,), (r,)))
    return ((r, c), (r,), (r,), (c, r), (c,), *spatial, (1, r, 1, 1), (1,))


def coordinate_parameters(shape):
    c = shape[1]
    r = coordinate_hidden(c)
    return ((r, c, 1, 1), (r,), (r,), (c, r, 1, 1), (c, r, 1, 1))


def shuffle_parameters(shape):
    half = shape[1] // (2 * shuffle_groups(shape[1]))
    return (*[(1, half, 1, 1)] * 4, (half,), (half,))


def selective_parameters(shape):
    return (shape, *selection_parameters(shape[1]))


def split_parameters(shape):
    return selection_parameters(shape[1] // 2)


def selection_parameters(c):
    r = max(c // SE_RATIO, SE_LEAST_HIDDEN)
    return ((r, c, 1, 1), (2 * c, r, 1, 1))


def blend_parameters(shape):
    return (shape, shape, (shape[1],), (shape[1],))


def iterative_blend_parameters(shape):
    c, r = shape[1], max(1, shape[1] // AFF_RATIO)
    return (*blend_parameters(shape), (r, c, 1, 1), (c, r, 1, 1), (c,), (c,))


def bam_hidden(channels):
    return max(1, channels // BAM_RATIO)


def coordinate_hidden(channels):
    return max(COORDINATE_LEAST_HIDDEN, channels // COORDINATE_RATIO)


def shuffle_groups(channels):
    """The published 64, where that leaves two channels for each half of a group."""
    return max(1, min(64, channels // 4))


def tail_parameters(parameter_shapes):
    """The residual, the norm's weight and bias, and the gate's."""
    return lambda shape: (shape, (shape[1],), (shape[1],), *parameter_shapes(shape))


def keep_the_maximum(w1, w2, weight):
    """A channel gate that is nearly the same in all channels: a pixel's maximum stays clear."""
    w2 /= 10


def settle_bam(w1, gamma, beta, w2, b2, *spatial):
    keep_norm_off_the_kink(gamma, beta)
    for i in range(0, 9, 3):
        keep_norm_off_the_kink(*spatial[i + 1 : i + 3])


def keep_norm_off_the_kink(gamma, beta):
    """Hidden units clearly on or clearly off: what the norm scales stays within 3."""
    gamma.clamp_(-0.4, 0.4)
    beta.copy_(3 * beta.sign())


def settle_coordinate(w1, gamma, beta, w_h, w_w):
    """Between the kinks of the hard swish, at -3 and 3."""
    gamma.clamp_(-0.4, 0.4)
    beta /= 50


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
    """Called as eager(x, *parameters). Ours is `function`, by default the one of that name in
    attn_kernels.functional, or, where there is `module`, the module that it makes for a number of
    channels: its parameters, in their order, are the last of ours; what comes before them is handed
    to it beside x.
    """

    eager: Callable[..., torch.Tensor]
    parameter_shapes: Callable[[tuple[int, ...]], tuple[tuple[int, ...], ...]]
    shapes: str  # of benchmarks.cases.SHAPES, the sets that it is measured on
    settle: Callable[..., None] = lambda *parameters: None  # see make_inputs
    module: Callable[[int], torch.nn.Module] | None = None
    function: Callable[..., torch.Tensor] | None = None
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
        written = self.module is None and self.function is None
        return getattr(ak.reference, self.name) if written else self.eager

    def ours(self, x: torch.Tensor, parameters: tuple) -> Callable[..., torch.Tensor]:
        if self.module is None:
            return self.function or getattr(ak.functional, self.name)
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


def bam_module(channels: int) -> torch.nn.Module:
    module = ak.BAM(channels, min(BAM_RATIO, channels), BAM_DILATION)
    module.channel_att.gate_c.gate_c_fc_0.bias = None
    for name in ("gate_s_conv_reduce0", "gate_s_conv_di_0", "gate_s_conv_di_1"):
        module.spatial_att.gate_s.get_submodule(name).bias = None
    return by_this_batch(module)


def coordinate_module(channels: int) -> torch.nn.Module:
    return by_this_batch(ak.CoordinateAttention(channels, bias=False))


def shuffle_module(channels: int) -> torch.nn.Module:
    return ak.ShuffleAttention(channels, shuffle_groups(channels))


def simam_module(channels: int) -> torch.nn.Module:
    return ak.SimAM(SIMAM_LAMBDA)


def selective_kernel(x, other, w1, w2):
    select = functools.partial(eager.selection, w1=w1, w2=w2)
    return ak.functional.mix_squeeze_gate([x, other], select)


def split_attention(x, w1, w2):
    select = functools.partial(eager.selection, w1=w1, w2=w2)
    return ak.functional.mix_squeeze_gate(x, select, 2)


def iterative_blend(x, y, a, scale, shift, w1, w2, scale2, shift2):
    z = ak.functional.blend(x, y, a, scale, shift)
    return ak.functional.blend(x, y, eager.attended_again(z, w1, w2), scale2, shift2)


def by_this_batch(module: torch.nn.Module) -> torch.nn.Module:
    """Its norms without running statistics, as `trained_norm`."""
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            child.track_running_stats = False
            child.running_mean = child.running_var = child.num_batches_tracked = None
    return module


OPS = {
    op.name: op
    for op in (
        Op(eager.spatial_gate, spatial_parameters, "resnet,tiny"),
        Op(eager.spatial_attention, spatial_parameters, "resnet,tiny"),
        Op(eager.channel_pool, no_parameters, "resnet,tiny"),
        Op(eager.gam_channel_gate, gam_parameters, "gam,tiny", keep_off_the_kink),
        Op(eager.scale_gate, scale_parameters, "gam,tiny"),
        Op(eager.squeeze_excite, squeeze_excite_parameters, "gates,tiny"),
        Op(
            eager.cbam,
            cbam_parameters,
            "gates,tiny",
            keep_the_maximum,
            cbam_module,
            kernel="spatial_gate",
        ),
        Op(
            eager.spatial_se,
            spatial_se_parameters,
            "gates,tiny",
            module=ak.SpatialSE,
            kernel="broadcast_gate",
        ),
        Op(
            eager.spatial_channel_se,
            spatial_channel_se_parameters,
            "gates,tiny",
            module=ak.SpatialChannelSE,
            kernel="broadcast_gate",
        ),
        Op(  # without the smallest: one image has no batch statistics
            eager.bam,
            bam_parameters,
            "gates",
            settle_bam,
            bam_module,
            kernel="broadcast_gate",
        ),
        Op(
            eager.coordinate_attention,
            coordinate_parameters,
            "gates,tiny",
            settle_coordinate,
            coordinate_module,
            kernel="broadcast_gate",
        ),
        Op(eager.simam, no_parameters, "gates,tiny", module=simam_module, kernel="self_gate"),
        Op(
            eager.shuffle_attention,
            shuffle_parameters,
            "gates,tiny",
            module=shuffle_module,
            kernel="self_gate",
        ),
        Op(
            eager.selective_kernel,
            selective_parameters,
            "gates,tiny",
            function=selective_kernel,
            kernel="mix",
        ),
        Op(
            eager.split_attention,
            split_parameters,
            "gates,tiny",
            function=split_attention,
            kernel="mix",
        ),
        Op(eager.blend, blend_parameters, "gates,tiny"),
        Op(
            eager.iterative_blend,
            iterative_blend_parameters,
            "gates,tiny",
            function=iterative_blend,
            kernel="blend",
        ),
        Op(
            eager.se_tail,
            tail_parameters(squeeze_excite_parameters),
            "gates,tiny",
            settle_tail,
            tail_of(ak.SqueezeExcite),
            kernel="affine_gate",
            gate="squeeze_excite",
        ),
        Op(
            eager.spatial_tail,
            tail_parameters(spatial_parameters),
            "gates,tiny",
            settle_tail,
            tail_of(spatial_module),
            kernel="spatial_gate",
            gate="spatial_gate",
        ),
        Op(
            eager.cbam_tail,
            tail_parameters(cbam_parameters),
            "gates,tiny",
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
