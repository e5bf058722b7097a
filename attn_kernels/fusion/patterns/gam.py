"""GAM's two gates: by an MLP over the channels of every pixel, and by a map that a batch norm and a
sigmoid end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from ...nn.batch_norm import norm_obstacle
from .. import graph as g
from .. import runtime
from ..site import Match, Rewriting, Site


def match_mlp(site: Site) -> Match | None:
    layers = [n for n in site.inside if g.is_layer(n, site.root, nn.Linear)]
    if len(layers) != 2 or site.value(site.factor).shape != site.shape:
        return None
    first, second = (g.layer(n, site.root) for n in layers)
    values = site.evaluated()
    activation = _activation(values[site.factor], values[site.x], first, second)
    if activation is None:
        return None
    site.check_private(site.inside)

    def write(rewriting: Rewriting) -> fx.Node:
        read = [rewriting.layer(site.product, n.target) for n in layers]
        gate = rewriting.call(site.product, runtime.gam_channel_gate, site.x, *read, activation)
        return site.replace(gate)

    return Match("GAM channel gate", 16, write)


def _activation(factor: torch.Tensor, x: torch.Tensor, first: Any, second: Any) -> str | None:
    """The gate's activation, where the factor is what the kernel computes."""
    if first.bias is None or second.bias is None or first.in_features != x.shape[1]:
        return None
    logit = second(torch.relu(first(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
    for activation, expected in (("identity", logit), ("sigmoid", torch.sigmoid(logit))):
        if expected.shape == factor.shape and torch.allclose(factor, expected, rtol=1e-10):
            return activation
    return None


def match_norm(site: Site) -> Match | None:
    last = site.factor
    if not (g.is_call(last, g.SIGMOIDS) or g.is_layer(last, site.root, nn.Sigmoid)):
        return None
    norm = last.all_input_nodes[0]
    if not g.is_layer(norm, site.root, nn.BatchNorm2d):
        return None
    a = norm.all_input_nodes[0]
    if norm_obstacle(g.layer(norm, site.root)) is not None or site.value(a).shape != site.shape:
        return None
    site.check_private([norm, last])

    def write(rewriting: Rewriting) -> fx.Node:
        layer = rewriting.layer(site.product, norm.target)
        gate = rewriting.call(site.product, runtime.norm_gate, site.x, a, layer)
        site.product.replace_all_uses_with(gate)
        g.take_out([norm, last, *site.expansions, site.product])
        return gate

    return Match("gate by a normalised map", 12, write)
