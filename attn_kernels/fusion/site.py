"""A product in a traced graph that may be a gate, and what patterns ask of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from . import graph as g
from .probe import BATCH, random_map
from .trace import NotFusedError


@dataclass(frozen=True)
class Match:
    """A gate that was found: what it is, what writes it, and the maps a training step saves.

    ``write`` gets the rewriting and returns the node that stands for the product now. ``spreads``:
    the module divides the gradient of equal maxima among them, our op gives it to the first.
    ``joins`` is the node of a gate that this one takes in.
    """

    what: str
    saves: int
    write: Callable[[Rewriting], fx.Node]
    spreads: bool = False
    joins: fx.Node | None = None


@dataclass
class Rewriting:
    """A graph on its way to a rewritten forward, with the mixes that it calls."""

    graph: fx.Graph
    root: nn.Module
    mixes: dict[fx.Node, fx.Graph] = field(default_factory=dict)

    def mix(self, graph: fx.Graph, given: list[fx.Node], before: fx.Node) -> fx.Node:
        """A node for the callable that `graph` is, once it has the values of `given`."""
        first_input = next(n for n in self.graph.nodes if n not in self.mixes)
        with self.graph.inserting_before(first_input):
            node = self.graph.placeholder(f"mix_{len(self.mixes)}")
        self.mixes[node] = graph
        return self.call(before, functools.partial, node, *given) if given else node

    def call(self, before: fx.Node, function: Callable[..., Any], *args: Any) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.call_function(function, args)

    def layer(self, before: fx.Node, path: Any) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.create_node("get_attr", path)


class Site:
    """``product = x * factor``, or what else is made of x and its factors, in a graph whose nodes
    have values for two sizes of the input.
    """

    def __init__(
        self,
        root: nn.Module,
        runs: tuple[g.Values, g.Values],
        product: fx.Node,
        x: fx.Node,
        *factors: fx.Node,
    ) -> None:
        self.root, self.runs, self.product, self.x = root, runs, product, x
        peeled = [g.peeled(factor) for factor in factors]
        self.factor = peeled[0]
        inside = {node for factor in peeled for node in g.between(x, factor)}
        self.inside = [node for node in x.graph.nodes if node in inside]
        after = {node for factor in peeled for node in g.between(factor, product)}
        after -= {product, *inside}
        self.expansions = [node for node in x.graph.nodes if node in after]
        self.shape = runs[0][x].shape

    def value(self, node: fx.Node, which: int = 0) -> Any:
        return self.runs[which][node]

    def evaluated(self, which: int = 0, channels: int | None = None) -> g.Values:
        """Values of x, random, and of everything between it and the factor."""
        _, c, *rest = self.runs[which][self.x].shape
        x = random_map(BATCH, c if channels is None else channels, *rest)
        return self.evaluated_on(x, which)

    def evaluated_on(self, x: torch.Tensor, which: int = 0) -> g.Values:
        return g.run(self.inside, self.root, {**self.runs[which], self.x: x})

    def spreads(self, node: fx.Node, dim: int | tuple[int, int]) -> bool:
        """Whether an extremum over dims gives equal values anything but all to the first."""
        with torch.enable_grad():
            x = torch.zeros(self.shape, dtype=torch.float64, device="cpu", requires_grad=True)
            value = self.evaluated_on(x)[node]
            (gradient,) = torch.autograd.grad(value.sum(), x)
        dims = (dim,) if isinstance(dim, int) else dim
        first = gradient
        for d in dims:
            first = first.narrow(d, 0, 1)
        return bool((first != 1).any() or gradient.sum() != first.sum())

    def check_private(self, nodes: list[fx.Node]) -> None:
        """What only the product uses can go with it."""
        own = {*nodes, *self.expansions, self.product}
        if any(user not in own for node in nodes for user in node.users):
            raise NotFusedError("its factor is used elsewhere, too")

    def replace(self, node: fx.Node) -> fx.Node:
        self.product.replace_all_uses_with(node)
        g.take_out([*self.inside, *self.expansions, self.product])
        return node


def fixed(inside: list[fx.Node], a: g.Values, b: g.Values) -> set[fx.Node]:
    """Nodes whose tensors have the same shape in both evaluations: what was varied is gone."""
    found: set[fx.Node] = set()
    among = set(inside)
    for node in inside:
        va, vb = a[node], b[node]
        if isinstance(va, torch.Tensor):
            same = va.shape == vb.shape
        else:  # of several values one may be an index into what was pooled
            inputs = [n for n in node.all_input_nodes if n in among and g.has_tensor(a[n])]
            same = g.has_tensor(va) and bool(inputs) and all(n in found for n in inputs)
        if same:
            found.add(node)
    return found


def cuts(site: Site, free: set[fx.Node], values: g.Values) -> list[fx.Node]:
    """Where something is pooled away: nodes in `free` that read a tensor which is not."""
    found = []
    for node in site.inside:
        if node in free and isinstance(values[node], torch.Tensor):
            read = [n for n in node.all_input_nodes if n is site.x or n in site.inside]
            if any(g.has_tensor(values[n]) and n not in free for n in read):
                found.append(node)
    return found
