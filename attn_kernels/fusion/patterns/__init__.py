"""The gates that `fuse` knows.

A pattern is a function of a `Site`: it returns a `Match`, or None where the product is nothing of
its kind, and raises `NotFusedError` with the reason where it is but cannot be fused. They are asked
in this order.
"""

from collections.abc import Callable

from ..site import Match, Site
from . import broadcast, gam, polynomial, spatial, squeeze

CHANNEL, SPATIAL = squeeze.NAME, spatial.NAME
PATTERNS: tuple[Callable[[Site], Match | None], ...] = (
    squeeze.match,
    spatial.match,
    gam.match_mlp,
    gam.match_norm,
    broadcast.match_one,
    polynomial.match,
)
