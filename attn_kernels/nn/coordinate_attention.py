import torch
import torch.nn.functional as F
from torch import nn

from .. import functional
from ..checks import check_bool, check_int


class CoordinateAttention(nn.Module):
    """Coordinate attention: a gate per row and one per column, from the means of rows and columns.

    ``x * sigmoid(conv_h(rows)) * sigmoid(conv_w(columns))``, where rows (N, R, H, 1) and columns
    (N, R, 1, W) are ``hardswish(bn1(conv1(means)))``, both in one.

    (N, C, H, W) -> (N, C, H, W). Parameters: those of ``conv1``, ``bn1``, ``conv_h`` and
    ``conv_w``, as in the published module. The layers are called as they are, whatever they have
    become.

    Args:
        in_channels: C.
        out_channels: C or 1, how many channels have gates of their own; None: C.
        reduction: R is C // reduction, and at least 8.
        bias: whether the convolutions have one; timm's have none.

    Raises:
        TypeError: a number is no int, or bias no bool.
        ValueError: there are no channels, or out_channels does not fit x.

    Hou et al., Coordinate Attention for Efficient Mobile Network Design, CVPR 2021.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        reduction: int = 32,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_int("in_channels", in_channels, least=1)
        out_channels = in_channels if out_channels is None else out_channels
        check_int("out_channels", out_channels, least=1)
        if out_channels not in (1, in_channels):
            raise ValueError(
                f"out_channels: expected 1 or in_channels ({in_channels}), got {out_channels}"
            )
        check_int("reduction", reduction, least=1)
        check_bool("bias", bias)
        hidden = max(8, in_channels // reduction)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_h = nn.Conv2d(hidden, out_channels, 1, bias=bias)
        self.conv_w = nn.Conv2d(hidden, out_channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ended(x)

    def ended(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, activation: str = "identity"
    ) -> torch.Tensor:
        """``activation(self(x) + residual)``, for `nn.Tail`."""
        return functional.broadcast_squeeze_gate(
            x, self._mix, ("rows", "columns"), residual=residual, activation=activation
        )

    def _mix(self, rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([rows, columns.transpose(2, 3)], 2)
        both = F.hardswish(self.bn1(self.conv1(both)))
        rows, columns = both.split([rows.shape[2], columns.shape[3]], 2)
        gates = self.conv_h(rows), self.conv_w(columns.transpose(2, 3))
        return torch.sigmoid(gates[0]), torch.sigmoid(gates[1])
