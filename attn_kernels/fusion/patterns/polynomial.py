"""x times the sigmoid of a polynomial of itself: SimAM; and shuffle attention, whose halves are
gated so and then shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .. import graph as g
from .. import runtime
from ..function import Function
from ..site import Match, Rewriting, Site
from ..trace import NotFusedError
from . import mix
from .squeeze import place

ELEMENT = "element"
PIXELS = (2, 3)


def _moment(x: torch.Tensor, correction: int) -> torch.Tensor:
    return x.var(PIXELS, correction=correction, keepdim=True)


# What the logit may be made of: one thing per element in which it is affine, and statistics.
ELEMENTS = {
    "deviation": lambda x: x - x.mean(PIXELS, keepdim=True),
    "square": lambda x: (x - x.mean(PIXELS, keepdim=True)).square(),
}
STATISTICS = {
    "mean": lambda x: x.mean(PIXELS, keepdim=True),
    "var": lambda x: _moment(x, 0),
    "unbiased": lambda x: _moment(x, 1),
    "squares": lambda x: _moment(x, 0) * x.shape[PIXELS[0] :].numel(),
}


@dataclass(frozen=True)
class Logit:
    """A logit as a function of an element and of statistics: what `runtime.polynomial` takes."""

    graph: fx.Graph
    given: list[fx.Node]
    kind: str
    names: tuple[str, ...]
    norm: fx.Node | None
    mixed: list[fx.Node]

    def written(self, rewriting: Rewriting, before: fx.Node) -> tuple[Any, ...]:
        node = rewriting.mix(self.graph, self.given, before)
        if self.norm is None:
            return node, self.kind, self.names
        layer: Any = g.layer(self.norm, rewriting.root)
        parameters = (
            None if p is None else rewriting.layer(before, f"{self.norm.target}.{name}")
            for name, p in (("weight", layer.weight), ("bias", layer.bias))
        )
        return node, self.kind, self.names, layer.eps, *parameters


def logit_of(site: Site) -> Logit | None:
    """The logit of a factor that is its sigmoid, if it is affine in one thing."""
    root, last = site.root, site.factor
    if not (g.is_call(last, g.SIGMOIDS) or g.is_layer(last, root, nn.Sigmoid)):
        return None
    logit = last.all_input_nodes[0]
    values = tuple(site.evaluated(which) for which in (0, 1))
    places: dict[fx.Node, tuple[str, mix.Place]] = {}
    kinds: dict[str, fx.Node] = {}
    among, stack = set(site.inside), [logit]
    while stack:
        node = stack.pop()
        if node is site.x:
            return None
        if node in places or node not in among or not g.has_tensor(values[0][node]):
            continue
        name = _name(node, site, values)
        if name is None:
            stack += node.all_input_nodes
        elif name in STATISTICS:
            places[node] = name, place(values[0][node])
        else:
            kinds[name] = node
            places[node] = ELEMENT, lambda graph, t: t
    if len(kinds) > 1:
        return None
    ((kind, element),) = kinds.items() or [("constant", None)]
    mixed, given = mix.between(site.inside, [logit], places, values[0])
    names = tuple(name for name in STATISTICS if name in {name for name, _ in places.values()})
    graph = mix.function(mixed, given, [ELEMENT, *names], places, [logit])
    norm = element if kind == "norm" else None
    found = Logit(graph, given, kind, names, norm, [*mixed, last])
    return found if _is_affine(found, site, values[0]) else None


def _name(node: fx.Node, site: Site, values: tuple[g.Values, ...]) -> str | None:
    if not isinstance(values[0][node], torch.Tensor):
        return None
    if g.is_layer(node, site.root, nn.GroupNorm) and node.all_input_nodes == [site.x]:
        layer: Any = g.layer(node, site.root)
        return "norm" if layer.num_groups == layer.num_channels else None
    for name, formula in (ELEMENTS | STATISTICS).items():
        if all(mix.same(v[node], formula(v[site.x])) for v in values):
            return name
    return None


def _is_affine(found: Logit, site: Site, values: g.Values) -> bool:
    n, c, *_ = values[site.x].shape
    given = [values[node] for node in found.given]
    statistics = [STATISTICS[name](values[site.x]) for name in found.names]
    at = [
        Function.of(found.graph).call(
            site.root, *given, torch.full((n, c, 1, 1), e).double(), *statistics
        )
        for e in (0.0, 1.0, 3.0)
    ]
    return torch.allclose(at[2] - at[0], 3 * (at[1] - at[0]), rtol=1e-9, atol=1e-12)


def match(site: Site) -> Match | None:
    if not site.inside or site.value(site.factor).shape != site.shape:
        return None
    found = logit_of(site)
    if found is None or found.kind == "constant":
        return None
    site.check_private(found.mixed)

    def write(rewriting: Rewriting) -> fx.Node:
        parts = (found.written(rewriting, site.product),)
        return site.replace(rewriting.call(site.product, runtime.self_gate, site.x, parts))

    return Match("SimAM" if found.kind == "square" else "gate by itself", 33, write)


@dataclass(frozen=True)
class Shuffle:
    """x, the sites of both halves of its groups, what joins them, and what shuffles that."""

    x: fx.Node
    halves: tuple[Site, Site]
    joined: fx.Node
    last: fx.Node
    folds: int


def shuffles(
    graph: fx.Graph, root: nn.Module, runs: tuple[g.Values, g.Values]
) -> Iterator[Shuffle]:
    """Two products that are joined and shuffled, of the halves of one map's groups."""
    run = runs[0]
    for joined in graph.nodes:
        products = joined.all_input_nodes
        if not g.is_call(joined, {torch.cat}) or len(products) != 2:
            continue
        if not all(g.is_call(n, g.PRODUCTS) for n in products):
            continue
        for halves in _pairs([_sites(n, root, runs) for n in products]):
            x = _whole(halves, run)
            last = None if x is None else _shuffled(joined, run[x].shape, run)
            if x is not None and last is not None:
                folds = run[joined].shape[0] // run[x].shape[0]
                yield Shuffle(x, halves, joined, last, folds)


def _pairs(sites: list[list[Site]]) -> Iterator[tuple[Site, Site]]:
    return ((a, b) for a in sites[0] for b in sites[1])


def _sites(product: fx.Node, root: nn.Module, runs: tuple[g.Values, g.Values]) -> list[Site]:
    a, b = g.operands(product)
    both = ((a, b), (b, a))
    return [
        Site(root, runs, product, x, factor)
        for x, factor in both
        if isinstance(runs[0][x], torch.Tensor) and runs[0][x].shape == runs[0][product].shape
    ]


def _whole(halves: tuple[Site, Site], run: g.Values) -> fx.Node | None:
    """The map whose groups the sites' maps are the halves of."""
    first, second = (site.x for site in halves)
    both = torch.cat([run[first], run[second]], 1)
    common = g.made_from(first) & g.made_from(second)
    found = [n for n in first.graph.nodes if n in common and isinstance(run[n], torch.Tensor)]
    for node in found:
        value = run[node]
        if value.dim() == 4 and mix.same(value, both) and value.shape[2:] == both.shape[2:]:
            return node
    return None


def _shuffled(joined: fx.Node, shape: torch.Size, run: g.Values) -> fx.Node | None:
    expected = F.channel_shuffle(run[joined].reshape(shape), 2)
    node = joined
    while len([u for u in node.users if g.has_tensor(run[u])]) == 1:
        (node,) = (u for u in node.users if g.has_tensor(run[u]))
        if node.op == "output":
            return None
        if run[node].shape == shape and torch.equal(run[node], expected):
            return node
    return None


def match_shuffle(shuffle: Shuffle) -> Match | None:
    found = [logit_of(site) for site in shuffle.halves]
    logits = [f for f in found if f is not None]
    if len(logits) != 2:
        return None
    for site, logit in zip(shuffle.halves, logits, strict=True):
        site.check_private(logit.mixed)
        if any(user is not shuffle.joined for user in site.product.users):
            raise NotFusedError("a half is used elsewhere, too")

    def write(rewriting: Rewriting) -> fx.Node:
        parts = tuple(logit.written(rewriting, shuffle.last) for logit in logits)
        operands = shuffle.x, parts, shuffle.folds, 2
        gate = rewriting.call(shuffle.last, runtime.self_gate, *operands)
        before = list(shuffle.x.graph.nodes)
        start, end = before.index(shuffle.x) + 1, before.index(shuffle.last) + 1
        shuffle.last.replace_all_uses_with(gate)
        g.take_out([n for n in before[start:end] if _is_computed(n)])
        return gate

    return Match("shuffle attention", 21, write)


def _is_computed(node: fx.Node) -> bool:
    return node.target is not runtime.self_gate
