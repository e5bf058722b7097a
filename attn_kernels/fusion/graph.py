"""Questions to a traced graph: its products, what lies between two nodes, what nodes compute."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

Values = dict[fx.Node, Any]

IN_PLACE = {operator.imul, "mul_"}
PRODUCTS = {operator.mul, torch.mul, torch.multiply, "mul", "multiply"} | IN_PLACE
ADD_IN_PLACE = {operator.iadd, "add_"}
ADDITIONS = {operator.add, torch.add, "add"} | ADD_IN_PLACE
EXPANSIONS = {"expand", "expand_as", "broadcast_to", torch.broadcast_to}
SIGMOIDS = {torch.sigmoid, torch.nn.functional.sigmoid, "sigmoid", "sigmoid_"}
HARD_SIGMOIDS = {torch.nn.functional.hardsigmoid}
RELUS = {torch.relu, torch.relu_, torch.nn.functional.relu, "relu", "relu_"}


def products(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if is_call(n, PRODUCTS) and len(operands(n)) == 2]


def additions(graph: fx.Graph) -> list[fx.Node]:
    """Of two nodes, and no multiple of one."""
    found = (n for n in graph.nodes if is_call(n, ADDITIONS) and "alpha" not in n.kwargs)
    return [n for n in found if len(operands(n)) == 2]


def is_call(node: fx.Node, targets: Iterable[Any]) -> bool:
    return node.op in ("call_function", "call_method") and node.target in targets


def is_layer(node: fx.Node, root: nn.Module, cls: type[nn.Module] | tuple[type, ...]) -> bool:
    return node.op == "call_module" and isinstance(layer(node, root), cls)


def layer(node: fx.Node, root: nn.Module) -> nn.Module:
    return root.get_submodule(str(node.target))


def operands(product: fx.Node) -> list[fx.Node]:
    given = (*product.args, *product.kwargs.values())
    return [a for a in given if isinstance(a, fx.Node)]


def peeled(factor: fx.Node) -> fx.Node:
    """A factor without the expansion that the product does by itself."""
    while is_call(factor, EXPANSIONS):
        factor = factor.all_input_nodes[0]
    return factor


def made_from(node: fx.Node, stop: fx.Node | None = None) -> set[fx.Node]:
    """The node and all that it depends on, but for `stop` and what only that depends on."""
    found, stack = {node}, [node]
    while stack:
        more = {n for n in stack.pop().all_input_nodes if n not in found and n is not stop}
        found |= more
        stack += more
    return found


def between(x: fx.Node, factor: fx.Node) -> list[fx.Node]:
    """Nodes that depend on x and that the factor depends on, in order, the factor the last one;
    empty where it does not depend on x.
    """
    needed = made_from(factor, stop=x)
    found: dict[fx.Node, None] = {}
    for node in x.graph.nodes:
        if node in needed and any(a is x or a in found for a in node.all_input_nodes):
            found[node] = None
    return list(found) if factor in found else []


def run(nodes: Iterable[fx.Node], root: nn.Module, values: Values) -> Values:
    """Values of the nodes in order, added to those of what they need."""
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        args, kwargs = map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(root)
        elif node.op == "call_module":
            values[node] = layer(node, root)(*args, **kwargs)
        elif node.op == "call_method":
            values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values


def take_out(nodes: Iterable[fx.Node]) -> None:
    """Removes those that nobody uses any more; nodes are in order."""
    for node in reversed(list(nodes)):
        if not node.users:
            node.graph.erase_node(node)


def has_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(has_tensor(v) for v in value)
    return isinstance(value, torch.Tensor)
