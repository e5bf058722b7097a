"""Squeeze, mix, gate: x times a factor per channel that follows from statistics of x alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ... import functional
from .. import graph as g
from ..probe import BATCH
from ..site import Match, Rewriting, Site, cuts, fixed
from ..trace import NotFusedError
from . import mix

NAME = "channel gate"
SPATIAL = (2, 3)
STATISTICS = {
    "mean": lambda x: x.mean(SPATIAL),
    "var": lambda x: x.var(SPATIAL, correction=0),
    "max": lambda x: x.amax(SPATIAL),
    "min": lambda x: x.amin(SPATIAL),
}
# How code holds a statistic, by where its channels are, from ours, (N, C, 1, 1).
LAYOUTS: dict[str, tuple[Any, ...] | None] = {
    "NC11": None,
    "NC1": ("flatten", 2),
    "NC": ("flatten", 1),
    "N11C": ("permute", 0, 2, 3, 1),
}


def match(site: Site) -> Match | None:
    n, c, *_ = site.shape
    if not site.inside or site.value(site.factor).shape not in ((n, c, 1, 1), (1, c, 1, 1)):
        return None
    values = tuple(site.evaluated(which) for which in (0, 1))
    free = fixed(site.inside, *values)
    if site.factor not in free:
        return None
    if values[0][site.factor].dtype != torch.float64:
        raise NotFusedError("computes its factor in a dtype of its own")
    pooled = {node: _name(site, node, values) for node in cuts(site, free, values[0])}
    places = {node: (name, place(values[0][node])) for node, name in pooled.items()}
    mixed, given = mix.between(site.inside, [site.factor], places, values[0])
    site.check_private(mixed)
    names = [name for name in STATISTICS if name in pooled.values()]
    spreads = any(
        name in ("max", "min") and site.spreads(node, SPATIAL) for node, name in pooled.items()
    )

    def write(rewriting: Rewriting) -> fx.Node:
        graph = mix.function(mixed, given, names, places, [site.factor])
        node = rewriting.mix(graph, given, site.product)
        gate = rewriting.call(site.product, functional.squeeze_gate, site.x, node, tuple(names))
        return site.replace(gate)

    return Match(f"{NAME} by {' and '.join(names)}", 6, write, spreads)


def _name(site: Site, node: fx.Node, values: tuple[g.Values, ...]) -> str:
    """Which statistic a node is, by what it computes."""
    for name, statistic in STATISTICS.items():
        expected = [statistic(v[site.x]) for v in values]
        if all(mix.same(v[node], e) for v, e in zip(values, expected, strict=True)):
            return name
    raise NotFusedError(
        "pools by something that is no mean, variance, maximum or minimum of whole maps"
    )


def place(value: torch.Tensor) -> mix.Place:
    """Brings (N, C, 1, 1) into the layout that code holds a statistic in."""
    shape = tuple(value.shape)
    for letters, call in LAYOUTS.items():
        sizes = {"N": BATCH, "C": value.numel() // BATCH, "1": 1}
        if shape == tuple(sizes[letter] for letter in letters):
            return lambda graph, t: (
                t if call is None else graph.call_method(call[0], (t, *call[1:]))
            )
    raise NotFusedError(f"holds a statistic in a shape that is not known: {list(shape)}")
