"""The carried gradient (see carried.py) between broadcast statistics and a broadcast gate.

There is a carrier for each shape that a factor may have: which of them the gate takes is known when
the mix has made the factors. The two factors commute, so who carries which does not matter.
"""

from .. import ops
from ..reference.broadcast_gate import forward as gate_formula
from ..reference.broadcast_squeeze import forward as squeeze_formula
from .broadcast_gate import FOLD as GATE_FOLD
from .broadcast_gate import BroadcastGate, factor_gradients
from .broadcast_squeeze import FOLD as SQUEEZE_FOLD
from .broadcast_squeeze import BroadcastSqueeze, final_pass
from .carried import WithoutToken
from .differentiable import differentiable, saved_by


class BroadcastSqueezeCarried(BroadcastSqueeze):
    """x, weight, statistics, combine, gate, skip -> the four statistics, token, four carriers."""

    @staticmethod
    def backward(ctx, *gradients):
        dr, *carried = gradients[4:]
        factors = [t for t in carried if t is not None]
        a, b = [*factors, None, None][:2]
        return *final_pass(ctx, gradients[:4], dr, (a, b), ctx.settings), *[None] * 4


class BroadcastGateCarried(BroadcastGate):
    """x, a, b, residual, combine, gate, skip, activation, token, two carriers -> y."""

    @staticmethod
    def backward(ctx, dy):
        x, y, a, b = saved_by(ctx, maps=4)
        d_a, d_b, d_residual, dr = factor_gradients(ctx, dy, x, y, a, b)
        carried = (dr, a, b) if ctx.needs_input_grad[8] else (None, None, None)
        return None, d_a, d_b, d_residual, *[None] * 4, *carried


broadcast_squeeze_carried = differentiable(
    "broadcast_squeeze_carried",
    BroadcastSqueezeCarried,
    lambda x, weight, statistics, *settings: (
        *squeeze_formula(x, weight, statistics),
        *ops.nothing_broadcast(x),
    ),
    SQUEEZE_FOLD,
)
broadcast_gate_carried = differentiable(
    "broadcast_gate_carried",
    BroadcastGateCarried,
    lambda *operands: gate_formula(*operands[:8]),
    WithoutToken("broadcast_gate", 8, GATE_FOLD),
)
