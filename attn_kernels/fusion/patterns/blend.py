"""Two maps weighed against each other by an attention: attentional feature fusion."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from .. import graph as g
from .. import runtime
from ..site import Match, Rewriting, Site
from . import mix

# Maps that eager PyTorch moves in a training step for the sigmoid's sum, the sigmoid and the
# blend, beyond what ours moves; for the norm in front of them; for twice x and twice y.
SAVED, NORM, TWICE = 25, 5, 8


@dataclass(frozen=True)
class Blend:
    """``last = factor * (x * w + y * (1 - w))``, ``w = sigmoid(local + of_image)``."""

    last: fx.Node
    weight: fx.Node
    x: fx.Node
    y: fx.Node
    local: fx.Node
    of_image: fx.Node
    factor: int


def weights(
    graph: fx.Graph, root: nn.Module, run: g.Values
) -> Iterator[tuple[fx.Node, fx.Node, fx.Node]]:
    """(weight, local, of_image): sigmoids of a map and what is added to all of its pixels."""
    for weight in graph.nodes:
        if not (g.is_call(weight, g.SIGMOIDS) or g.is_layer(weight, root, nn.Sigmoid)):
            continue
        total = weight.all_input_nodes[0]
        if not g.is_call(total, g.ADDITIONS) or len(g.operands(total)) != 2:
            continue
        for local, of_image in (g.operands(total), g.operands(total)[::-1]):
            shape, other = (getattr(run[n], "shape", ()) for n in (local, of_image))
            if len(shape) == 4 and shape == run[total].shape and other == (*shape[:2], 1, 1):
                yield weight, local, g.peeled(of_image)


def blends(graph: fx.Graph, root: nn.Module, run: g.Values) -> Iterator[Blend]:
    for weight, local, of_image in weights(graph, root, run):
        for last in g.additions(graph):
            after = set(g.between(weight, last))
            if not after or getattr(run[last], "shape", ()) != run[weight].shape:
                continue
            read = {o for n in after for o in g.operands(n)} - {weight, *after}
            read |= {o for n in read if g.is_call(n, g.PRODUCTS) for o in g.operands(n)}
            maps = [n for n in graph.nodes if n in read and _is_like(run[n], run[weight])]
            for (x, y), factor in itertools.product(itertools.permutations(maps, 2), (1, 2)):
                w = run[weight]
                if mix.same(run[last], factor * (run[x] * w + run[y] * (1 - w))):
                    yield Blend(last, weight, x, y, local, of_image, factor)
                    break


def _is_like(value: Any, map: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == map.shape


def match(site: Site, found: Blend) -> Match:
    """The site's product is the blend, its x and factor are the local branch and the weight."""
    a, norm = found.local, None
    if g.is_layer(a, site.root, nn.BatchNorm2d) and len(a.users) == 1:
        a, norm = a.all_input_nodes[0], a.target

    def write(rewriting: Rewriting) -> fx.Node:
        layer = None if norm is None else rewriting.layer(found.last, norm)
        operands = found.x, found.y, a, layer, found.of_image, found.factor
        made = [n for n in rewriting.graph.nodes if n in g.made_from(found.last, stop=a)]
        node = rewriting.call(found.last, runtime.blend, *operands)
        found.last.replace_all_uses_with(node)
        g.take_out(n for n in made if n.op not in ("placeholder", "get_attr"))
        return node

    saved = SAVED + (0 if norm is None else NORM) + (TWICE if found.factor == 2 else 0)
    return Match("blend of two maps", saved, write)
