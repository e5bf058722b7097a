from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .. import functional
from ..checks import check_bool, check_int, check_one_of
from .children import is_traced, obstacle, parameter, unfused

Function = Callable[[torch.Tensor], torch.Tensor]
ACTIVATIONS: dict[str, Function] = {"relu": F.relu, "silu": F.silu}
GATES: dict[str, Function] = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}
PLAIN = (None, None)
# Kernel size, stride, padding, groups and padding mode.
POINTWISE = ((1, 1), (1, 1), (0, 0), 1, "zeros")


class SqueezeExcite(nn.Module):
    """Squeeze and excitation: ``x * gate(fc2(act(fc1(mean_hw(x)))))``.

    (N, C, H, W) -> (N, C, H, W). Parameters: ``fc1.weight`` (R, C, 1, 1), ``fc2.weight`` (C, R, 1,
    1) and, with ``bias=True``, ``fc1.bias`` and ``fc2.bias``, as in timm and torchvision.
    Layers that are more than their parameters (hooks, adapters, a stride) are called, and the gate
    is not one kernel; the module's repr says so.

    Args:
        channels: C.
        hidden: R; None: C // 16, and at least 8.
        bias: whether the layers have one.
        activation: "relu", or "silu" as EfficientNet has it.
        gate: "sigmoid", or "hardsigmoid" as MobileNetV3 has it.

    Raises:
        TypeError: channels or hidden is no int, or bias no bool.
        ValueError: there are no channels or hidden units, or a name is unknown.

    Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
    """

    squeeze = ("mean",)

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        bias: bool = True,
        activation: str = "relu",
        gate: str = "sigmoid",
    ) -> None:
        super().__init__()
        check_int("channels", channels, least=1)
        hidden = max(channels // 16, 8) if hidden is None else hidden
        check_int("hidden", hidden, least=1)
        check_bool("bias", bias)
        check_one_of("activation", activation, ACTIVATIONS)
        check_one_of("gate", gate, GATES)
        self.activation, self.gate = activation, gate
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        modules: Any = self._modules
        fc1, fc2 = modules["fc1"], modules["fc2"]
        if layers_obstacles(fc1, fc2) == PLAIN:
            return fused(x, fc1, fc2, self.activation, self.gate)
        return functional.squeeze_gate(x, self.mix, self.squeeze)

    def mix(self, mean: torch.Tensor) -> torch.Tensor:
        activation, gate = ACTIVATIONS[self.activation], GATES[self.gate]
        return gate(pointwise(self.fc2, activation(pointwise(self.fc1, mean))))

    def extra_repr(self) -> str:
        of_fc1, of_fc2 = layers_obstacles(self.fc1, self.fc2)
        options = f"activation={self.activation!r}", f"gate={self.gate!r}"
        return ", ".join(filter(None, (*options, unfused(fc1=of_fc1, fc2=of_fc2))))


def layers_obstacles(fc1: Any, fc2: Any) -> tuple[str | None, str | None]:
    """What keeps the kernel from doing the work of each layer: C -> R -> C, on one pixel."""
    of_fc1, of_fc2 = pointwise_obstacle(fc1), pointwise_obstacle(fc2)
    if of_fc1 is None and of_fc2 is None:
        there, back = (fc1.in_channels, fc1.out_channels), (fc2.out_channels, fc2.in_channels)
        if there != back:
            of_fc2 = f"is Conv2d({fc2.extra_repr()})"
    return of_fc1, of_fc2


def pointwise_obstacle(conv: Any) -> str | None:
    found = obstacle(conv, nn.Conv2d)
    if found is not None:
        return found
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.groups, conv.padding_mode
    weight = conv._parameters.get("weight")
    shape = conv.out_channels, conv.in_channels, 1, 1
    if geometry != POINTWISE or (weight is not None and weight.shape != shape):
        return f"is Conv2d({conv.extra_repr()})"
    return None


def pointwise(conv: Any, v: torch.Tensor) -> torch.Tensor:
    """conv(v) of one pixel, (N, C, 1, 1): of a plain layer the matrix product that it is, which on
    the CPU takes a third of the time.
    """
    if is_traced(v) or pointwise_obstacle(conv) is not None:
        return conv(v)
    weight, bias = parameter(conv, "weight"), parameter(conv, "bias")
    return F.linear(v.flatten(1), weight.flatten(1), bias)[..., None, None]


def fused(x: torch.Tensor, fc1: nn.Module, fc2: nn.Module, activation: str, gate: str):
    return functional.squeeze_excite(
        x,
        parameter(fc1, "weight"),
        parameter(fc1, "bias"),
        parameter(fc2, "weight"),
        parameter(fc2, "bias"),
        activation,
        gate,
    )
