"""The carried gradient: one pass writes x's gradient through a gate and through its statistics.

Autograd would give x two gradients, each a map of its own, and add them. Instead the squeeze node
also returns a token, shaped as x, and a carrier, shaped as the gate's scale: zeros expanded from
one element. The gate node takes them, computes nothing with them, and in its backward returns for x
nothing, for the token the gradient of what its activation got, and for the carrier the *value* of
its scale. The squeeze node's backward then has all that one pass over the map needs. The spatial
gate's own backward ends with x's gradient through it: its token gets that, its carrier nothing, and
the last pass completes it in its place.

This holds as long as one gate takes the token, once. A `torch.vmap` around both nodes may give one
token to many gates, and would sum up what they hand back: there the gate gives x its own gradient,
as do the formulas that forward mode goes through.
"""

from dataclasses import dataclass

from .. import ops
from ..reference.affine_gate import forward as affine_formula
from ..reference.spatial_gate import forward as spatial_formula
from ..reference.squeeze import forward as squeeze_formula
from .affine_gate import FOLD as AFFINE_FOLD
from .affine_gate import AffineGate, gate_gradients
from .differentiable import differentiable, saved_by
from .spatial_gate import FOLD as SPATIAL_FOLD
from .spatial_gate import SpatialGate
from .squeeze import Squeeze, final_pass
from .vmap import Fold


class SqueezeCarried(Squeeze):
    """x, statistics -> mean, var, max, min, argmax, argmin, token, carrier."""

    @staticmethod
    def backward(ctx, *gradients):
        dr, scale = gradients[6:]
        return final_pass(ctx, gradients[:4], dr, scale), None


class AffineGateCarried(AffineGate):
    """x, scale, shift, residual, activation, token, carrier -> y."""

    @staticmethod
    def backward(ctx, dy):
        x, y, scale = saved_by(ctx, maps=2)
        d_scale, d_shift, d_residual, dr = gate_gradients(ctx, dy, x, y)
        carried = (dr, scale) if ctx.needs_input_grad[5] else (None, None)
        return None, d_scale, d_shift, d_residual, None, *carried


class SpatialGateCarried(SpatialGate):
    """x, weight, bias, scale, shift, residual, activation, token, carrier -> y, map, pooled."""

    @staticmethod
    def backward(ctx, *gradients):
        dx, *others = SpatialGate.backward(ctx, *gradients)
        return None, *others, dx, None


@dataclass(frozen=True)
class WithoutToken(Fold):
    """The fold of the gate alone, which is the op of that name."""

    gate: str = ""

    def rule(self, op, formula):
        alone = super().rule(getattr(ops, self.gate), formula)
        return lambda info, in_dims, *args: alone(info, in_dims[:-2], *args[:-2])


def without_token(gate: str, fold: Fold) -> WithoutToken:
    return WithoutToken(**(vars(fold) | {"gate": gate}))


squeeze_carried = differentiable(
    "squeeze_carried",
    SqueezeCarried,
    lambda x, statistics: (*squeeze_formula(x, statistics), *ops.nothing(x)),
    Fold(maps=(0,)),
)
affine_gate_carried = differentiable(
    "affine_gate_carried",
    AffineGateCarried,
    lambda *args: affine_formula(*args[:-2]),
    without_token("affine_gate", AFFINE_FOLD),
)
spatial_gate_carried = differentiable(
    "spatial_gate_carried",
    SpatialGateCarried,
    lambda *args: spatial_formula(*args[:-2]),
    without_token("spatial_gate", SPATIAL_FOLD),
)
