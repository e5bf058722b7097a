"""What stands in a fused module's place for its forward."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..nn.children import obstacle
from .function import Function


@dataclass(frozen=True)
class Program:
    """A forward on our ops, as it was found.

    ``forward`` takes the mixes, then the module's inputs. ``read`` are the children that it does
    the work of without calling them, with the class that each had. With ``square`` it holds for
    square maps alone.
    """

    forward: Function
    mixes: tuple[Function, ...]
    inputs: int
    read: tuple[tuple[str, type[nn.Module]], ...]
    square: bool


class Rewritten:
    """Has the ``forward`` of one module, which is kept in its ``__dict__``: class, children,
    parameters and hooks stay what they are.

    Where a child that is read is no longer plain (hooks, another class), or the input is no
    (N, C, H, W), the forward of the module's class is called instead.
    """

    def __init__(self, module: nn.Module, program: Program) -> None:
        self.module, self.program = module, program

    @property
    def forward(self) -> types.MethodType:
        return types.MethodType(entry(self.program.forward.call), self)

    def serves(self, args: tuple[Any, ...]) -> bool:
        program = self.program
        if len(args) != program.inputs or not all(isinstance(x, torch.Tensor) for x in args):
            return False
        x = args[0]
        if x.dim() != 4 or (program.square and x.shape[2] != x.shape[3]):
            return False
        return all(obstacle(child_of(self.module, path), cls) is None for path, cls in program.read)

    def replicate(self) -> nn.Module:
        """nn.DataParallel copies a module's attributes: the copy needs a forward of its own."""
        replica = type(self.module)._replicate_for_data_parallel(self.module)
        put(replica, self.program)
        return replica


@functools.cache
def entry(call: Callable[..., Any]) -> types.FunctionType:
    """`forward` with a code object that belongs to `call`: torch.compile keeps what it compiled by
    code object, and gates of different kinds are not to crowd each other out.
    """
    return types.FunctionType(forward.__code__.replace(), globals(), "forward")


def forward(self: Rewritten, *args: Any, **kwargs: Any) -> Any:
    module, program = self.module, self.program
    if kwargs or not self.serves(args):
        return type(module).forward(module, *args, **kwargs)
    mixes = [functools.partial(mix.call, module) for mix in program.mixes]
    return program.forward.call(module, *mixes, *args)


def child_of(module: nn.Module, path: str) -> Any:
    child: Any = module
    for name in path.split("."):
        child = child._modules.get(name)
        if child is None:
            break
    return child


def put(module: nn.Module, program: Program) -> None:
    rewritten = Rewritten(module, program)
    module.__dict__["forward"] = rewritten.forward
    module.__dict__["_replicate_for_data_parallel"] = rewritten.replicate


def take_back(module: nn.Module) -> None:
    if rewritten_of(module) is not None:
        del module.__dict__["forward"], module.__dict__["_replicate_for_data_parallel"]


def rewritten_of(module: nn.Module) -> Rewritten | None:
    found = getattr(module.__dict__.get("forward"), "__self__", None)
    return found if isinstance(found, Rewritten) else None
