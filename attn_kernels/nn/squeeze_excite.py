from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .. import functional
from ..checks import check_bool, check_int, check_one_of

Function = Callable[[torch.Tensor], torch.Tensor]
ACTIVATIONS: dict[str, Function] = {"relu": F.relu, "silu": F.silu}
GATES: dict[str, Function] = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}


class SqueezeExcite(nn.Module):
    """Squeeze and excitation: ``x * gate(fc2(act(fc1(mean_hw(x)))))``.

    (N, C, H, W) -> (N, C, H, W). Parameters: ``fc1.weight`` (R, C, 1, 1), ``fc2.weight`` (C, R, 1,
    1) and, with ``bias=True``, ``fc1.bias`` and ``fc2.bias``, as in timm and torchvision. The
    layers are called as they are, whatever they have become.

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
        return functional.squeeze_gate(x, self.mix, self.squeeze)

    def mix(self, mean: torch.Tensor) -> torch.Tensor:
        activation, gate = ACTIVATIONS[self.activation], GATES[self.gate]
        return gate(self.fc2(activation(self.fc1(mean))))

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}, gate={self.gate!r}"
