"""A module's forward as a graph that can be written back: `torch.fx`, with children as leaves."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm


class NotFusedError(Exception):
    """A module is left alone; the message says why."""


class InPlaceProxy(fx.Proxy):
    """Keeps ``x += y`` what it is: a plain Proxy makes ``x = x + y`` of it, whose dtype differs."""

    def _in_place(self, function: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)


class GateTracer(fx.Tracer):
    """Traces through the children in `through` alone; every other child stays a call of it.

    Arguments that have defaults keep them: the graph is that of a call without them.
    """

    proxy_buffer_attributes = True

    def __init__(self, through: Collection[str] = ()) -> None:
        super().__init__()
        self.through = through
        self.mode = _mode()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return InPlaceProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.through

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        names = required_arguments(root_fn)
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in names]
        return root_fn, [self.root, *proxies]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _mode() != self.mode:
            raise NotFusedError(
                "computes under no_grad, autocast or the like, which a trace does not keep"
            )
        return super().create_node(*args, **kwargs)


def _mode() -> tuple[bool, ...]:
    devices = ("cpu", "cuda")
    return (torch.is_grad_enabled(), *(torch.is_autocast_enabled(d) for d in devices))


def required_arguments(forward: Any) -> list[str]:
    """Names of the arguments, after self, that a call must give."""
    first, *parameters = inspect.signature(forward).parameters.values()
    kinds = {p.kind for p in (first, *parameters)}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        raise NotFusedError("its forward takes *args")
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if any(p.kind is p.KEYWORD_ONLY for p in required):
        raise NotFusedError("its forward needs a keyword")
    return [p.name for p in required]


def traced(module: nn.Module, through: Collection[str] = ()) -> fx.Graph:
    """The graph of the forward that the module's class gives it."""
    inside = [module, *(module.get_submodule(path) for path in through)]
    try:
        with unchanged(inside):
            return without_unused_items(GateTracer(through).trace(module))
    except NotFusedError:
        raise
    except Exception as error:  # whatever a user's forward does with a proxy
        raise NotFusedError(f"cannot be traced: {first_line(error)}") from error


def without_unused_items(graph: fx.Graph) -> fx.Graph:
    """Items that code unpacks and does not look at: h and w of a size, the indices of a maximum."""
    for node in reversed(graph.nodes):
        if node.target is operator.getitem and not node.users:
            graph.erase_node(node)
    return graph


@contextmanager
def unchanged(modules: list[nn.Module]) -> Iterator[None]:
    """What a forward keeps in its module a rewritten one would not keep: undone, and said."""
    before = [_contents(module) for module in modules]
    try:
        yield
    finally:
        after = [_contents(module) for module in modules]
        for module, (attributes, _) in zip(modules, before, strict=True):
            module.__dict__.clear()
            module.__dict__.update(attributes)
    if before != after:
        raise NotFusedError("its forward keeps something in the module")


def _contents(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes, and what tells that they are the same: identity, and a container's length."""
    attributes = dict(module.__dict__)
    sized = (list, dict, set)
    marks = {
        name: (id(value), len(value) if isinstance(value, sized) else 0)
        for name, value in attributes.items()
    }
    return attributes, marks


def is_opaque(child: nn.Module) -> bool:
    """Whether a child is a layer of PyTorch's, or a batch norm, rather than a user's own code."""
    of_torch = type(child).__module__.startswith(("torch.nn.", "torch.ao."))
    return (of_torch and not isinstance(child, nn.Sequential)) or isinstance(child, _BatchNorm)


def first_line(error: BaseException) -> str:
    """The first sentence, for a table."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
