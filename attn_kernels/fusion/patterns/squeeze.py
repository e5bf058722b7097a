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

NAME = "channel gate"
SPATIAL = (2, 3)
STATISTICS = {
    "mean": lambda x: x.mean(SPATIAL),
    "var": lambda x: x.var(SPATIAL, correction=0),
    "max": lambda x: x.amax(SPATIAL),
    "min": lambda x: x.amin(SPATIAL),
}
# How code holds a statistic, by where its channels are, from ours, (N, C, 1, 1).
LAYOUTS = {
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
    mixed, given = _mix(site, pooled, values[0])
    site.check_private(mixed)
    names = [name for name in STATISTICS if name in pooled.values()]
    spreads = any(
        name in ("max", "min") and site.spreads(node, SPATIAL) for node, name in pooled.items()
    )

    def write(rewriting: Rewriting) -> fx.Node:
        layouts = {node: _layout(values[0][node]) for node in pooled}
        graph = _mix_graph(site, mixed, given, pooled, names, layouts)
        mix = rewriting.mix(graph, given, site.product)
        gate = rewriting.call(site.product, functional.squeeze_gate, site.x, mix, tuple(names))
        return site.replace(gate)

    return Match(f"{NAME} by {' and '.join(names)}", 6, write, spreads)


def _name(site: Site, node: fx.Node, values: tuple[g.Values, ...]) -> str:
    """Which statistic a node is, by what it computes."""
    for name, statistic in STATISTICS.items():
        expected = [statistic(v[site.x]) for v in values]
        if all(_same(v[node], e) for v, e in zip(values, expected, strict=True)):
            _layout(values[0][node])
            return name
    raise NotFusedError(
        "pools by something that is no mean, variance, maximum or minimum of whole maps"
    )


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.numel() == expected.numel() and torch.allclose(
        found.reshape(expected.shape), expected, rtol=1e-10, atol=1e-12
    )


def _layout(value: torch.Tensor) -> tuple[Any, ...] | None:
    shape = tuple(value.shape)
    for letters, call in LAYOUTS.items():
        sizes = {"N": BATCH, "C": value.numel() // BATCH, "1": 1}
        if shape == tuple(sizes[letter] for letter in letters):
            return call
    raise NotFusedError(f"holds a statistic in a shape that is not known: {list(shape)}")


def _mix(
    site: Site, pooled: dict[fx.Node, str], values: g.Values
) -> tuple[list[fx.Node], list[fx.Node]]:
    """Nodes from the statistics to the factor, and what else these read."""
    inside, mixed = set(site.inside), set()
    given: dict[fx.Node, None] = {}
    stack = [site.factor]
    while stack:
        node = stack.pop()
        if node in pooled or node in mixed:
            continue
        if node in inside and g.has_tensor(values[node]):
            mixed.add(node)
            stack += node.all_input_nodes
        else:
            given[node] = None
    return [n for n in site.inside if n in mixed], list(given)


def _mix_graph(
    site: Site,
    mixed: list[fx.Node],
    given: list[fx.Node],
    pooled: dict[fx.Node, str],
    names: list[str],
    layouts: dict[fx.Node, tuple[Any, ...] | None],
) -> fx.Graph:
    """The mix as a graph of its own: from what is given and the statistics to the factor."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(f"given_{i}") for i, node in enumerate(given)}
    statistics = {name: graph.placeholder(name) for name in names}
    for node, name in pooled.items():
        call = layouts[node]
        copies[node] = statistics[name]
        if call is not None:
            copies[node] = graph.call_method(str(call[0]), (statistics[name], *call[1:]))
    for node in mixed:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[site.factor])
    return graph
