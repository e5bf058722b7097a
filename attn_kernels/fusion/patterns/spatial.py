"""Spatial attention: x times a map that follows from x's mean and maximum over channels."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import BatchNorm2d

from ... import functional
from ...nn.spatial_attention import conv_obstacle
from .. import graph as g
from .. import runtime
from ..site import Match, Rewriting, Site, cuts, fixed
from ..trace import NotFusedError

NAME = "spatial gate"
POOLS = {"mean": lambda x: x.mean(1), "max": lambda x: x.amax(1)}


def match(site: Site) -> Match | None:
    n, c, h, w = site.shape
    if not site.inside or c == 1 or site.value(site.factor).shape != (n, 1, h, w):
        return None
    try:
        values = site.evaluated(), site.evaluated(channels=c + 3)
    except Exception:  # a layer between them has channels of its own
        return None
    free = fixed(site.inside, *values)
    if site.factor not in free:
        return None
    pooled = {node: _name(site, node, values[0]) for node in cuts(site, free, values[0])}
    spreads = any(name == "max" and site.spreads(node, 1) for node, name in pooled.items())
    fused = _layers(site, pooled, values[0])
    if fused is None:
        what = "channel pool of a spatial gate"
        return Match(what, 4, lambda rewriting: _pool(rewriting, site, pooled, values[0]), spreads)
    site.check_private([node for node in site.inside if node in free and node not in pooled])
    squeezed = _channel_gate(site)
    what, saves = (NAME, 11) if squeezed is None else ("CBAM", 24)

    def write(rewriting: Rewriting) -> fx.Node:
        conv, norm, max_first = fused
        layers = [n if n is None else rewriting.layer(site.product, n.target) for n in (conv, norm)]
        if squeezed is None:
            gate = rewriting.call(site.product, runtime.spatial_gate, site.x, *layers, max_first)
            return site.replace(gate)
        x, *squeeze = squeezed.args
        spatial = (*layers, max_first)
        gate = rewriting.call(site.product, runtime.tail, x, None, tuple(squeeze), spatial)
        site.replace(gate)
        g.take_out([squeezed])
        return gate

    return Match(what, saves, write, spreads, squeezed)


def _name(site: Site, node: fx.Node, values: g.Values) -> str:
    n, _, h, w = site.shape
    for name, pool in POOLS.items():
        expected = pool(values[site.x])
        found = values[node]
        if found.shape in ((n, 1, h, w), (n, h, w)) and torch.allclose(
            found.reshape(n, h, w), expected, rtol=1e-10, atol=1e-12
        ):
            return name
    raise NotFusedError("pools channels by something that is no mean or maximum of all of them")


def _layers(
    site: Site, pooled: dict[fx.Node, str], values: g.Values
) -> tuple[fx.Node, fx.Node | None, bool] | None:
    """Convolution, batch norm or None, and whether the maximum comes first, where that is all."""
    last = site.factor
    if not (g.is_call(last, g.SIGMOIDS) or g.is_layer(last, site.root, nn.Sigmoid)):
        return None
    node, norm = last.all_input_nodes[0], None
    if g.is_layer(node, site.root, BatchNorm2d):
        if not runtime.only_identities(g.layer(node, site.root)):
            return None
        node, norm = node.all_input_nodes[0], node
    if not g.is_layer(node, site.root, nn.Conv2d):
        return None
    if conv_obstacle(g.layer(node, site.root)) is not None:
        return None
    order = _order(values[node.all_input_nodes[0]], values[site.x])
    return None if order is None else (node, norm, order == ["max", "mean"])


def _order(planes: torch.Tensor, x: torch.Tensor) -> list[str] | None:
    for order in (["mean", "max"], ["max", "mean"]):
        expected = torch.stack([POOLS[name](x) for name in order], 1)
        if planes.shape == expected.shape and torch.allclose(planes, expected, rtol=1e-10):
            return order
    return None


def _channel_gate(site: Site) -> fx.Node | None:
    """The channel gate that x is, if nobody else looks at it."""
    x = site.x
    own = {*site.inside, site.product}
    if x.target is functional.squeeze_gate and all(user in own for user in x.users):
        return x
    return None


def _pool(
    rewriting: Rewriting, site: Site, pooled: dict[fx.Node, str], values: g.Values
) -> fx.Node:
    """Both pools in one reading of x; the map and the product stay the module's own."""
    first = next(iter(pooled))
    planes = rewriting.call(first, functional.channel_pool, site.x)
    with rewriting.graph.inserting_before(first):
        for node, name in pooled.items():
            i = list(POOLS).index(name)
            args = (planes, 1, i, 1) if values[node].dim() == 4 else (planes, 1, i)
            method = "narrow" if values[node].dim() == 4 else "select"
            node.replace_all_uses_with(rewriting.graph.call_method(method, args))
    g.take_out(site.inside)
    return site.product
