"""The part of a graph between what was squeezed out of a map and the factors of its gate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import fx

from .. import graph as g

# A statistic in the place of a node of the module's own: how its layout is made from ours.
Place = Callable[[fx.Graph, fx.Node], fx.Node]


def between(
    inside: Sequence[fx.Node],
    factors: Sequence[fx.Node],
    stops: Collection[fx.Node],
    values: g.Values,
) -> tuple[list[fx.Node], list[fx.Node]]:
    """Nodes from the stops to the factors, and what else these read. `inside` follows from x."""
    among, mixed = set(inside), set()
    after: set[fx.Node] = set()  # the stops, tensors and sizes
    for node in inside:
        if any(n in stops or n in after for n in node.all_input_nodes):
            after.add(node)
    given: dict[fx.Node, None] = {}
    stack = [*factors]
    while stack:
        node = stack.pop()
        if node in stops or node in mixed:
            continue
        if node in after or (node in among and g.has_tensor(values[node])):
            mixed.add(node)
            stack += node.all_input_nodes
        else:
            given[node] = None
    return [n for n in inside if n in mixed], list(given)


def function(
    mixed: Sequence[fx.Node],
    given: Sequence[fx.Node],
    names: Sequence[str],
    places: Mapping[fx.Node, tuple[str, Place]],
    factors: Sequence[fx.Node],
) -> fx.Graph:
    """The mix as a graph of its own: from what is given and the statistics to the factors."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(f"given_{i}") for i, node in enumerate(given)}
    statistics = {name: graph.placeholder(name) for name in names}
    for node, (name, place) in places.items():
        copies[node] = place(graph, statistics[name])
    for node in mixed:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    made = tuple(copies[factor] for factor in factors)
    graph.output(made if len(made) > 1 else made[0])
    return graph


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Up to rounding, in whatever shape."""
    return found.numel() == expected.numel() and torch.allclose(
        found.reshape(expected.shape), expected, rtol=1e-10, atol=1e-12
    )
