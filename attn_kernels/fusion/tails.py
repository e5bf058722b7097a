"""Ends of residual blocks: batch norm, gate, addition and ReLU as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from .. import functional
from . import graph as g
from . import runtime
from .site import Match, Rewriting
from .trace import NotFusedError, is_opaque, traced

Ways = Mapping[str, set[str] | None]
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
SIZES = ("size", "shape", "dim", "ndim")
# Maps that a training step saves besides those of the gate, by arithmetic (benchmarks/traffic.py):
# an addition, a ReLU, and a batch norm in front of nothing, of a squeeze, of a map, of both.
ADDITION, ACTIVATION = 2, 3
NORM = {(False, False): 0, (True, False): 7, (False, True): 3, (True, True): 8}


def opened(graph: fx.Graph, root: nn.Module, gates: Ways) -> set[str] | None:
    """Children to trace through so that the tails of a graph are seen; None if there is no tail.

    `gates` says of children that are fused what to trace through to see their one gate; None where
    they are more than that.
    """
    found: set[str] | None = None
    for addition in g.additions(graph):
        ways = (way(operand, root, gates) for operand in g.operands(addition))
        first = next((children for children in ways if children is not None), None)
        if first is not None:
            found = first | (found or set())
    return found


def way(node: fx.Node, root: nn.Module, gates: Ways, prefix: str = "") -> set[str] | None:
    """Children on the way from an addition back to a batch norm or a gate; None if it leads to
    neither.
    """
    if g.is_call(node, g.PRODUCTS):
        ways = (way(operand, root, gates, prefix) for operand in g.operands(node))
        return next((children for children in ways if children is not None), None)
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return None
    path = f"{prefix}{node.target}"
    child, below = root.get_submodule(path), node.all_input_nodes[0]
    if is_norm(child):
        return set()
    if path in gates:
        into = gates[path]
        return None if into is None else into | (way(below, root, gates, prefix) or set())
    if type(child) is nn.Identity:
        return way(below, root, gates, prefix)
    if is_opaque(child) or "forward" in child.__dict__:
        return None
    if not any(True for _ in child.parameters()):  # drops paths, or blocks, or does nothing
        found = way(below, root, gates, prefix)
    else:
        try:
            last = next(n for n in traced(child).nodes if n.op == "output").args[0]
        except NotFusedError:
            return None
        found = way(last, root, gates, f"{path}.") if isinstance(last, fx.Node) else None
    return None if found is None else {path} | found


def is_norm(child: nn.Module) -> bool:
    """A batch norm, perhaps of a subclass whose children do nothing; a proof will tell."""
    return isinstance(child, NORMS) and runtime.only_identities(child)


@dataclass(frozen=True)
class Parts:
    """A gate in a graph: its map, and either what `runtime.tail` takes of it, or a function that
    ends it itself.
    """

    x: fx.Node
    squeeze: Any = None
    spatial: Any = None
    own: tuple[Any, ...] = ()

    @staticmethod
    def of(node: fx.Node) -> Parts | None:
        args: Any = node.args
        if node.target is functional.squeeze_gate:
            return Parts(args[0], args[1:])
        if node.target is runtime.spatial_gate:
            return Parts(args[0], None, args[1:])
        if node.target is runtime.tail and len(args) == 4:  # a CBAM
            return Parts(args[0], *args[2:])
        if node.target in (runtime.broadcast_gate, runtime.broadcast_squeeze_gate):
            return Parts(args[0], own=(node.target, *args))
        return None

    @property
    def takes_norm(self) -> bool:
        return not self.own

    def call(self, z: fx.Node, norm: fx.Node | None) -> tuple[Any, ...]:
        """The function with its arguments up to the residual."""
        return self.own or (runtime.tail, z, norm, self.squeeze, self.spatial)


def match(
    rewriting: Rewriting, addition: fx.Node, gates: Mapping[fx.Node, Match], run: g.Values
) -> Match | None:
    """The tail that an addition ends, or that ends with the ReLU after it."""
    shape = getattr(run[addition], "shape", ())
    if len(shape) != 4 or any(run[n].shape != shape for n in g.operands(addition)):
        return None
    first, second = g.operands(addition)
    reason = None
    for side, residual in ((first, second), (second, first)):
        try:
            found = _match(rewriting, addition, side, residual, gates)
        except NotFusedError as error:
            reason = reason or error
            continue
        if found is not None:
            return found
    if reason is not None:
        raise reason
    return None


def _match(
    rewriting: Rewriting,
    addition: fx.Node,
    side: fx.Node,
    residual: fx.Node,
    gates: Mapping[fx.Node, Match],
) -> Match | None:
    root, chain = rewriting.root, [addition]
    side = _through_identities(side, root, chain)
    gate = gates.get(side)
    parts = Parts.of(side) if gate is not None else Parts(side)
    if parts is None:
        return None
    if gate is not None:
        chain.append(side)
    norm, z = None, parts.x
    below: list[fx.Node] = []
    start = _through_identities(parts.x, root, below)
    if parts.takes_norm and start.op == "call_module" and is_norm(g.layer(start, root)):
        chain += [*below, start]
        norm, z = start, start.all_input_nodes[0]
    elif gate is None:
        _say_what_is_between(side, root)
        return None
    if g.is_call(addition, g.ADD_IN_PLACE) and addition.args[0] is residual:
        raise NotFusedError("tail: adds in place to the map that is added")
    if not _is_private(chain, z):
        raise NotFusedError("tail: what it adds is used elsewhere, too")
    last = _relu(addition, root)
    squeezes, maps = parts.squeeze is not None, parts.spatial is not None
    saves = ADDITION + (0 if norm is None else NORM[squeezes, maps])

    def write(rewriting: Rewriting) -> fx.Node:
        end = addition if last is None else last
        layer = None if norm is None else rewriting.layer(end, norm.target)
        activation = "identity" if last is None else "relu"
        in_place = g.is_call(addition, g.ADD_IN_PLACE)
        tail = rewriting.call(end, *parts.call(z, layer), residual, activation, in_place)
        end.replace_all_uses_with(tail)
        g.take_out([*reversed(chain), *([] if last is None else [last])])
        return tail

    named = ("batch norm" if norm is not None else "", "" if gate is None else gate.what)
    what = " + ".join(filter(None, (*named, "addition", "ReLU" if last is not None else "")))
    saves += (0 if gate is None else gate.saves) + (ACTIVATION if last is not None else 0)
    return Match(what, saves, write, joins=None if gate is None else side)


def _through_identities(node: fx.Node, root: nn.Module, passed: list[fx.Node]) -> fx.Node:
    while g.is_layer(node, root, nn.Identity):
        passed.append(node)
        node = node.all_input_nodes[0]
    return node


def _relu(addition: fx.Node, root: nn.Module) -> fx.Node | None:
    """The ReLU that an addition is for, if it is for nothing else."""
    if len(addition.users) != 1:
        return None
    (user,) = addition.users
    return user if g.is_call(user, g.RELUS) or g.is_layer(user, root, nn.ReLU) else None


def _is_private(chain: list[fx.Node], z: fx.Node) -> bool:
    """Whether nobody else uses what will not be there any more. Those that ask for sizes ask z."""
    for node in chain[1:]:
        for user in list(node.users):
            attribute = user.target is getattr and user.args[1] in SIZES
            if attribute or (user.op == "call_method" and user.target in SIZES):
                user.replace_input_with(node, z)
    return all(user in chain for node in chain[1:] for user in node.users)


def _say_what_is_between(node: fx.Node, root: nn.Module) -> None:
    """Raises where neither a gate nor nothing stands between a batch norm and the addition."""
    unknown = None
    while len(node.all_input_nodes) == 1:
        if node.op == "call_module":
            child = g.layer(node, root)
            if is_norm(child) and unknown is not None:
                raise NotFusedError(f"tail: {unknown} between batch norm and addition")
            if is_opaque(child):
                return
            unknown = type(child).__name__
        elif node.op == "call_function" and not _is_of_torch(node.target):
            unknown = getattr(node.target, "__name__", str(node.target))
        else:
            return
        node = node.all_input_nodes[0]


def _is_of_torch(function: Any) -> bool:
    return getattr(function, "__module__", "").split(".")[0] in ("torch", "_operator", "operator")
