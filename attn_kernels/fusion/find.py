"""From a module to the program that computes it on our ops."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from . import graph as g
from . import tails
from .function import Function
from .patterns import CHANNEL, PATTERNS, SPATIAL, broadcast, polynomial
from .patterns.blend import blends
from .patterns.blend import match as match_blend
from .patterns.blend import weights as weights_of_blends
from .patterns.selection import match as match_selection
from .patterns.selection import selections
from .probe import Shapes, find_shapes, own_randomness, specimen
from .rewritten import Program
from .site import Match, Rewriting, Site
from .trace import NotFusedError, is_opaque, required_arguments, traced


@dataclass(frozen=True)
class Found:
    """A program for a module, the gates in it, the reasons why other products of it were left, and
    what to prove it with.
    """

    program: Program
    gates: list[Match]
    left: list[str]
    through: tuple[str, ...]
    specimen: nn.Module
    shapes: Shapes

    def is_one(self, kind: str = "") -> bool:
        return [gate.what.startswith(kind) for gate in self.gates] == [True] and not self.left


@dataclass
class Search:
    """What came of one graph: the gates that were written, the products that were left and why."""

    rewriting: Rewriting
    shapes: Shapes
    first_max: bool
    gates: dict[fx.Node, Match] = field(default_factory=dict)
    left: dict[fx.Node, str] = field(default_factory=dict)
    nothing: set[fx.Node] = field(default_factory=set)

    def run(self) -> None:
        """Writes one gate after another, in the graph's order: one may take in an earlier one."""
        while (site_and_match := self.next()) is not None:
            _, match = site_and_match
            if match.joins is not None:
                del self.gates[match.joins]
            self.gates[match.write(self.rewriting)] = match

    def run_tails(self) -> None:
        """Takes in batch norms, additions and ReLUs around the gates, and where there is none."""
        for addition in g.additions(self.rewriting.graph):
            run = values_of(self.rewriting, self.shapes)[0]
            try:
                match = tails.match(self.rewriting, addition, self.gates, run)
            except NotFusedError as reason:
                self.left[addition] = str(reason)
                continue
            if match is not None:
                if match.joins is not None:
                    del self.gates[match.joins]
                self.gates[match.write(self.rewriting)] = match

    def next(self) -> tuple[Site, Match] | None:
        runs = values_of(self.rewriting, self.shapes)
        for site, matcher in self.sites(runs):
            if site.product in self.gates or site.product in self.nothing:
                continue
            try:
                match = matcher(site)
                if match is not None:
                    self.check(site, match)
            except NotFusedError as reason:
                self.left.setdefault(site.product, str(reason))
                continue
            if match is not None:
                self.left.pop(site.product, None)
                return site, match
        return None

    def sites(
        self, runs: tuple[g.Values, g.Values]
    ) -> Iterator[tuple[Site, Callable[[Site], Match | None]]]:
        """What may be a gate, and what tells: two factors at once before one after the other."""
        graph, root = self.rewriting.graph, self.rewriting.root
        for shuffle in polynomial.shuffles(graph, root, runs):
            yield shuffle.halves[1], functools.partial(_match_shuffle, shuffle)
        for selection in selections(graph, runs[0]):
            site = selection.site(root, runs)
            if site.inside:
                yield site, functools.partial(match_selection, found=selection)
        for blend in blends(graph, root, runs[0]):
            site = Site(root, runs, blend.last, blend.local, blend.weight)
            yield site, functools.partial(match_blend, found=blend)
        for form in broadcast.forms(graph, root, runs[0]):
            site = Site(root, runs, form.last, form.x, *form.factors)
            if site.inside:
                yield site, functools.partial(broadcast.match, form=form)
        for x, product, factor in pairs(graph, runs[0]):
            yield Site(root, runs, product, x, factor), self.match

    def match(self, site: Site) -> Match | None:
        patterns = PATTERNS if len(site.shape) == 4 else ()
        match = next(filter(None, (pattern(site) for pattern in patterns)), None)
        if match is None:
            if _narrows(site):
                raise NotFusedError("a gate of a kind that is not known")
            return None
        return match

    def check(self, site: Site, match: Match) -> None:
        if match.spreads and not self.first_max:
            raise NotFusedError("divides the gradient of equal maxima among them: see first_max")
        if g.is_call(site.product, g.IN_PLACE | g.ADD_IN_PLACE) and _overwrites(site):
            raise NotFusedError("multiplies in place a map that is used elsewhere, too")


def _match_shuffle(shuffle: polynomial.Shuffle, _: Site) -> Match | None:
    return polynomial.match_shuffle(shuffle)


def _narrows(site: Site) -> bool:
    """Whether the factor follows from something smaller than the map, which was computed for it."""
    own = g.made_from(site.factor) - g.made_from(site.x)
    computed = (site.value(n) for n in own if n.op not in ("placeholder", "get_attr"))
    size = site.shape.numel()
    return any(isinstance(v, torch.Tensor) and v.numel() < size for v in computed)


def _overwrites(site: Site) -> bool:
    """Whether somebody else can see that a product in place has changed its operand."""
    after = list(site.x.graph.nodes)
    after = after[after.index(site.product) :]
    return site.x.op == "placeholder" or any(user in after[1:] for user in site.x.users)


def multiplies(graph: fx.Graph) -> bool:
    """Whether two things are multiplied that follow from the same input."""
    for product in g.products(graph):
        a, b = (g.made_from(operand) for operand in g.operands(product))
        if any(node.op == "placeholder" for node in a & b):
            return True
    return False


def joinable(graph: fx.Graph, children: Mapping[str, Found]) -> set[str]:
    """Children that are a channel gate and, called on nothing but its result, a spatial gate; and
    gates of the same map whose results are added.
    """
    found: set[str] = set()
    calls = {n: n.target for n in graph.nodes if n.op == "call_module" and n.target in children}
    for node, path in calls.items():
        then = calls.get(next(iter(node.users))) if len(node.users) == 1 else None
        if then is not None and children[path].is_one(CHANNEL) and children[then].is_one(SPATIAL):
            found |= {path, then}
    for addition in g.additions(graph):  # two gates of one map
        a, b = g.operands(addition)
        if a in calls and b in calls and a.args == b.args:
            found |= {path for path in (calls[a], calls[b]) if children[path].is_one()}
    return found


def ways_into(children: Mapping[str, Found]) -> dict[str, set[str] | None]:
    """What to trace through to see the one gate of each child; None for one that is more."""
    return {
        path: {path, *(f"{path}.{below}" for below in found.through)} if found.is_one() else None
        for path, found in children.items()
    }


def find(
    module: nn.Module, children: Mapping[str, Found], first_max: bool, with_tails: bool
) -> Found | None:
    """A program for the module, None if it has no gate and, with tails, no tail; raises
    `NotFusedError` with the reason.

    `children` are those that are gates themselves, by their paths.
    """
    graph = traced(module)
    joined = joinable(graph, children)
    ends = None
    if with_tails:
        ends = tails.opened(graph, module, ways_into(children))
    if not joined and ends is None and not multiplies(graph):
        return None
    joined |= ends or set()
    with own_randomness():
        double = specimen(module)
        inputs = len(required_arguments(type(module).forward))
        if inputs == 0:
            return None
        shapes = find_shapes(double, inputs)
        graph, through = expanded(double, shapes, joined)
        in_evaluation, called = str(graph), Counter(_called(graph))
        search = Search(Rewriting(graph, double), shapes, first_max)
        search.run()
        if with_tails:
            search.run_tails()
        if search.gates and str(traced(double.train(), through)) != in_evaluation:
            raise NotFusedError("computes one thing in training and another in evaluation")
    left = list(dict.fromkeys(search.left.values()))
    if not search.gates:
        if left:
            raise NotFusedError(left[0])
        return None
    rewriting = search.rewriting
    still = Counter(path for g in (graph, *rewriting.mixes.values()) for path in _called(g))
    read = sorted({*(called - still), *through})
    mixes = {node: Function.of(mix) for node, mix in rewriting.mixes.items()}
    program = Program(
        forward=Function.of(graph),
        mixes=tuple(mixes.values()),
        inputs=inputs,
        read=tuple((path, type(double.get_submodule(path))) for path in read),
        square=shapes.square,
    )
    return Found(program, list(search.gates.values()), left, through, double, shapes)


def _called(graph: fx.Graph) -> Iterator[str]:
    """Children that are called, or given to a function that asks them itself, as often."""
    return (str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr"))


def expanded(root: nn.Module, shapes: Shapes, joined: set[str]) -> tuple[fx.Graph, tuple[str, ...]]:
    """The graph, traced through children to join and those that make a factor out of a map."""
    root.eval()
    through = dict.fromkeys(sorted(joined))
    while True:
        graph = traced(root, through)
        run = values_of(Rewriting(graph, root), shapes)[0]
        more = [
            str(node.target)
            for x, _, factor in pairs(graph, run)
            for node in g.between(x, factor)
            if node.op == "call_module" and _reads_a_map(node, run, root)
        ]
        more += [  # whose last layer may be a batch norm
            str(local.target)
            for _, local, _ in weights_of_blends(graph, root, run)
            if local.op == "call_module" and not is_opaque(g.layer(local, root))
        ]
        if not more:
            return graph, tuple(through)
        through |= dict.fromkeys(more)


def _reads_a_map(node: fx.Node, run: g.Values, root: nn.Module) -> bool:
    """Whether a child that is no plain layer sees pixels; one that mixes statistics does not."""
    if is_opaque(g.layer(node, root)):
        return False
    return any(
        isinstance(run[n], torch.Tensor) and run[n].dim() > 2 and run[n].shape[2:].numel() > 1
        for n in node.all_input_nodes
    )


def pairs(graph: fx.Graph, run: g.Values) -> list[tuple[fx.Node, fx.Node, fx.Node]]:
    """(x, product, factor) of every product of a map, both ways round."""
    found = []
    for product in g.products(graph):
        for x, factor in (g.operands(product), g.operands(product)[::-1]):
            value, other = run[x], run[factor]
            both = isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor)
            if both and value.dim() > 3 and value.shape == run[product].shape and x is not factor:
                found.append((x, product, factor))
    return found


def values_of(rewriting: Rewriting, shapes: Shapes) -> tuple[g.Values, g.Values]:
    """What every node is for random input of either size."""
    root, nodes = rewriting.root, list(rewriting.graph.nodes)
    mixes: g.Values = {
        node: functools.partial(Function.of(graph).call, root)
        for node, graph in rewriting.mixes.items()
    }
    maps = [n for n in nodes if n.op == "placeholder" and n not in mixes]
    with torch.no_grad():
        runs = (mixes | dict(zip(maps, shapes.random(which), strict=True)) for which in (0, 1))
        first, second = (g.run(nodes, root, values) for values in runs)
    return first, second
