"""Selection among branches: a sum of M maps, each with a factor per channel that follows from the
mean of the sum of all (selective kernels, split attention).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ... import functional
from .. import graph as g
from ..site import Match, Rewriting, Site, cuts, fixed
from ..trace import NotFusedError
from . import mix
from .squeeze import place

SUMS = {torch.sum, "sum"}
STACKS = {torch.stack}
JOINS = {torch.cat, torch.concat, torch.concatenate}
UNSQUEEZES = {torch.unsqueeze, "unsqueeze"}
SHAPES = {torch.reshape, "view", "reshape", "unflatten"}
MEAN = "mean"
# Maps that eager PyTorch moves for each branch in a training step, beyond what ours moves: to add
# them, to multiply and add them, and back; to stack them, where they are not channels of one map.
SAVED, STACKED = 8, 2


@dataclass(frozen=True)
class Selection:
    """``last = (maps * factor).sum(1)``; maps is (N, M, C, H, W), `product` goes with it."""

    last: fx.Node
    maps: fx.Node
    product: fx.Node
    factor: fx.Node

    def site(self, root: Any, runs: tuple[g.Values, g.Values]) -> Site:
        return Site(root, runs, self.last, self.maps, self.factor)


def selections(graph: fx.Graph, run: g.Values) -> Iterator[Selection]:
    for last in graph.nodes:
        if not g.is_call(last, SUMS):
            continue
        product = last.all_input_nodes[0]
        if not g.is_call(product, g.PRODUCTS) or len(g.operands(product)) != 2:
            continue
        for maps, factor in (g.operands(product), g.operands(product)[::-1]):
            factor = g.peeled(factor)
            if _selects(run.get(maps), run.get(factor), run[product], run[last]):
                yield Selection(last, maps, product, factor)


def _selects(maps: Any, factor: Any, product: Any, last: Any) -> bool:
    tensors = all(isinstance(t, torch.Tensor) for t in (maps, factor, last))
    if not tensors or maps.dim() != 5 or maps.shape != product.shape:
        return False
    n, m, c, *_ = maps.shape
    per_channel = tuple(factor.shape) in ((n, m, c, 1, 1), (1, m, c, 1, 1))
    return per_channel and mix.same(last, product.sum(1))


def match(site: Site, found: Selection) -> Match | None:
    m = site.shape[1]
    values = tuple(site.evaluated(which) for which in (0, 1))
    free = fixed(site.inside, *values)
    if found.factor not in free:
        return None
    pooled = cuts(site, free, values[0])
    for node in pooled:
        if not all(mix.same(v[node], v[site.x].sum(1).mean((2, 3))) for v in values):
            raise NotFusedError("selects by something that is not the mean of the sum of its maps")
    places = {node: (MEAN, place(values[0][node])) for node in pooled}
    mixed, given = mix.between(site.inside, [found.factor], places, values[0])
    site.check_private(mixed)
    maps, parts = _maps(found.maps, site)
    saved = SAVED + (STACKED if parts == 1 else 0)

    def write(rewriting: Rewriting) -> fx.Node:
        graph = mix.function(mixed, given, [MEAN], places, [found.factor])
        select = rewriting.mix(graph, given, site.product)
        gate = rewriting.call(site.product, functional.mix_squeeze_gate, maps, select, parts)
        site.replace(gate)
        g.take_out([*found.maps.all_input_nodes, found.maps])
        return gate

    return Match(f"selection among {m} maps", saved * m, write)


def _maps(stacked: fx.Node, site: Site) -> tuple[list[fx.Node] | fx.Node, int]:
    """The maps as they are before somebody stacks them, and how many parts each has."""
    given: Any = stacked.args[0]
    if g.is_call(stacked, STACKS):
        return list(given), 1
    if g.is_call(stacked, JOINS):
        if all(g.is_call(n, UNSQUEEZES) for n in given):
            return [n.all_input_nodes[0] for n in given], 1
    elif g.is_call(stacked, SHAPES) and site.value(given).dim() == 4:
        m = site.shape[1]
        if g.is_call(given, JOINS) and len(given.args[0]) == m:
            return list(given.args[0]), 1
        return given, m
    raise NotFusedError("puts its maps together in a way that is not known")
