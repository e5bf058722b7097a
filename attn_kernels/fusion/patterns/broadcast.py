"""x times one or two factors that broadcast to it: scSE, BAM, coordinate attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ...nn.spatial_se import one_map_obstacle
from .. import graph as g
from .. import runtime
from ..site import Match, Rewriting, Site
from ..trace import NotFusedError
from . import mix
from .squeeze import place

# Statistics of a map, the dimensions over which they are means, and how code without them holds it.
MEANS: dict[str, tuple[int, ...]] = {"mean": (2, 3), "rows": (3,), "columns": (2,)}
SUM = "sum"
GATES: dict[str, tuple[set[Any], type[nn.Module]]] = {
    "sigmoid": (g.SIGMOIDS, nn.Sigmoid),
    "hardsigmoid": (g.HARD_SIGMOIDS, nn.Hardsigmoid),
}
# Maps that eager PyTorch moves in a training step, forward and backward, for a product of a map
# and a factor, and of two maps; to make a map of two factors, by a product or a sum; to gate it, to
# add 1 to it, to add two maps; for a statistic. And what ours moves for all of it together.
PRODUCT, FULL_PRODUCT = 8, 9
MAP = {"mul": 7, "add": 3}
GATED, SKIPPED, ADDED, SQUEEZED = 5, 2, 6, 5
OURS, OURS_SQUEEZED = 6, 1


@dataclass(frozen=True)
class Form:
    """What `last` is: ``x * (skip + gate(a * b))``, or ``a + b``. `taken` goes with it."""

    last: fx.Node
    x: fx.Node
    factors: tuple[fx.Node, ...]
    taken: tuple[fx.Node, ...]
    cost: int
    combine: str = "mul"
    gate: str = "identity"
    skip: bool = False


def forms(graph: fx.Graph, root: nn.Module, run: g.Values) -> Iterator[Form]:
    """All that there are by two factors of which one is no factor per channel."""
    sums, products = set(g.additions(graph)), set(g.products(graph))
    for node in graph.nodes:
        found: Iterator[Form] = iter(())
        if node in sums:
            found = _sums(node, run)
        elif node in products:
            found = _products(node, root, run)
        for form in found:
            if any(run[f].shape[2:].numel() > 1 for f in form.factors):
                yield form


def _sums(node: fx.Node, run: g.Values) -> Iterator[Form]:
    """``x * a + x * b``."""
    first, second = g.operands(node)
    if first is second or not all(g.is_call(n, g.PRODUCTS) for n in (first, second)):
        return
    for x, a in _sides(first, run):
        for other, b in _sides(second, run):
            if x is other:
                cost = 2 * PRODUCT + ADDED
                yield Form(node, x, (a, b), (first, second), cost, combine="add")


def _products(node: fx.Node, root: nn.Module, run: g.Values) -> Iterator[Form]:
    """``x * a * b``, and ``x`` times what a and b make together."""
    for x, b in _sides(node, run):
        if g.is_call(x, g.PRODUCTS):
            for inner, a in _sides(x, run):
                if x not in g.made_from(b):
                    yield Form(node, inner, (a, b), (x,), 2 * PRODUCT)
    for x, factor in (g.operands(node), g.operands(node)[::-1]):
        if _is_map(run.get(x)) and run[x].shape == run[node].shape:
            made = _made_of_two(g.peeled(factor), run[x].shape, root, run)
            if made is not None:
                factors, taken, cost, *form = made
                yield Form(node, x, factors, taken, cost + FULL_PRODUCT, *form)


def _sides(product: fx.Node, run: g.Values) -> list[tuple[fx.Node, fx.Node]]:
    """(map, narrow factor) of a product, where it is one."""
    if not g.is_call(product, g.PRODUCTS) or len(g.operands(product)) != 2:
        return []
    found = []
    for x, factor in (g.operands(product), g.operands(product)[::-1]):
        factor = g.peeled(factor)
        whole = _is_map(run.get(x)) and run[x].shape == run[product].shape
        if whole and _is_narrow(run[factor], run[x].shape):
            found.append((x, factor))
    return found


def _made_of_two(
    node: fx.Node, shape: torch.Size, root: nn.Module, run: g.Values
) -> tuple[Any, ...] | None:
    """Factors, nodes, cost, combine, gate and skip of a factor that is as large as the map."""
    taken, cost, skip, gate = [node], 0, False, "identity"
    if not _is_map(run.get(node)) or run[node].shape != shape:
        return None
    if g.is_call(node, g.ADDITIONS) and 1 in node.args and len(g.operands(node)) == 1:
        (node,) = g.operands(node)
        taken, cost, skip = [node, *taken], cost + SKIPPED, True
    for name, (functions, layer) in GATES.items():
        if g.is_call(node, functions) or g.is_layer(node, root, layer):
            node, gate = node.all_input_nodes[0], name
            taken, cost = [node, *taken], cost + GATED
            break
    combine = "mul" if g.is_call(node, g.PRODUCTS) else "add"
    if not g.is_call(node, g.PRODUCTS | g.ADDITIONS) or len(g.operands(node)) != 2:
        return None
    given = g.operands(node)
    factors = tuple(g.peeled(n) for n in given)
    if any(not _is_narrow(run[f], shape) for f in factors):
        return None
    return factors, tuple(taken), cost + MAP[combine], combine, gate, skip


def _is_map(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 4


def _is_narrow(value: Any, shape: torch.Size) -> bool:
    if not _is_map(value) or value.numel() >= shape.numel():
        return False
    return all(a in (1, b) for a, b in zip(value.shape, shape, strict=True))


def of_one(site: Site) -> Form | None:
    """x times one factor, which is none per channel."""
    narrow = _is_narrow(site.value(site.factor), site.shape)
    if not narrow or site.value(site.factor).shape[2:].numel() == 1:
        return None
    return Form(site.product, site.x, (site.factor,), (), PRODUCT)


def match_one(site: Site) -> Match | None:
    form = of_one(site)
    return None if form is None or not site.inside else match(site, form)


def match(site: Site, form: Form) -> Match:
    """What writes a form. Factors that follow from statistics alone become a mix of them; others
    are computed as they were.
    """
    values = tuple(site.evaluated(which) for which in (0, 1))
    if any(values[0][f].dtype != torch.float64 for f in form.factors):
        raise NotFusedError("computes its factor in a dtype of its own")
    pooled: dict[fx.Node, str] = {}
    squeezed = []
    for factor in form.factors:
        found = _statistics(factor, site, values)
        if found:
            squeezed.append(factor)
            pooled |= found
    convolutions = {str(node.target) for node, name in pooled.items() if name == SUM}
    if len(convolutions) > 1:
        raise NotFusedError("sums channels with several weights")
    places = {n: (name, _place(n, name, values[0][n], site)) for n, name in pooled.items()}
    raw = [f for f in form.factors if f not in squeezed]
    mixed, given = mix.between(site.inside, squeezed, places, values[0])
    given += [f for f in raw if f not in given]
    site.check_private([*mixed, *form.taken])
    names = [name for name in (*MEANS, SUM) if name in pooled.values()]

    def write(rewriting: Rewriting) -> fx.Node:
        options = form.combine, form.gate, form.skip
        if not squeezed:
            a, b, *_ = *form.factors, None
            gate = rewriting.call(form.last, runtime.broadcast_gate, form.x, a, b, *options)
            return site.replace(gate)
        graph = mix.function(mixed, given, names, places, form.factors)
        weights = [rewriting.layer(form.last, f"{path}.weight") for path in convolutions]
        node = rewriting.mix(graph, given, form.last)
        inputs = form.x, node, tuple(names), weights[0] if weights else None
        gate = rewriting.call(form.last, runtime.broadcast_squeeze_gate, *inputs, *options)
        return site.replace(gate)

    saves = form.cost - OURS + SQUEEZED * len(names) - (OURS_SQUEEZED if names else 0)
    return Match(_what(form, names), saves, write)


def _what(form: Form, names: list[str]) -> str:
    if names == ["rows", "columns"]:
        return "coordinate gate"
    if form.combine == "add" and names == ["mean", SUM]:
        return "scSE"
    if form.skip and form.gate == "sigmoid" and names == ["mean"]:
        return "BAM"
    return "gate by a map" if len(form.factors) == 1 else "gate by two factors"


def _statistics(
    factor: fx.Node, site: Site, values: tuple[g.Values, ...]
) -> dict[fx.Node, str] | None:
    """The statistics of x that a factor is made of; None if it is made of its pixels, too."""
    found: dict[fx.Node, str] = {}
    among, stack, seen = set(site.inside), [factor], set()
    while stack:
        node = stack.pop()
        if node is site.x:
            return None
        if node in seen or node not in among or not g.has_tensor(values[0][node]):
            continue
        seen.add(node)
        name = _name(node, site, values)
        if name is None:
            stack += node.all_input_nodes
        else:
            found[node] = name
    return found


def _name(node: fx.Node, site: Site, values: tuple[g.Values, ...]) -> str | None:
    if not isinstance(values[0][node], torch.Tensor):
        return None
    if g.is_layer(node, site.root, nn.Conv2d) and node.all_input_nodes == [site.x]:
        return SUM if one_map_obstacle(g.layer(node, site.root)) is None else None
    for name, dims in MEANS.items():
        if all(mix.same(v[node], v[site.x].mean(dims, keepdim=True)) for v in values):
            return name
    return None


def _place(node: fx.Node, name: str, value: torch.Tensor, site: Site) -> mix.Place:
    if name == SUM:
        if g.layer(node, site.root).bias is None:
            return lambda graph, t: t
        bias = f"{node.target}.bias"
        return lambda graph, t: graph.call_function(
            runtime.with_bias, (t, graph.create_node("get_attr", bias))
        )
    if name == "mean":
        return place(value)
    (dim,) = MEANS[name]
    if value.dim() == 3:
        return lambda graph, t: graph.call_method("squeeze", (t, dim))
    if value.shape[dim] == 1:
        return lambda graph, t: t
    return lambda graph, t: graph.call_method("transpose", (t, 2, 3))
