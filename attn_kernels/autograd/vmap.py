"""`torch.vmap` of our ops: the batch is folded into N, so that one call serves all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Rules(Protocol):
    """What makes a rule for `torch.vmap` of an op."""

    def rule(self, op, formula) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class Fold:
    """Which arguments of an op have N in front, and which are parameters: maps may have any
    strides, statistics and parameters are taken contiguous.

    Parameters that are batched become G sets, each for one of G equal parts of the images; so do
    those of a backward, since their gradients are asked for one by one. An op that does not know
    sets (`grouped`) gives way to its formula, which does.
    """

    maps: tuple[int, ...]
    statistics: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    grouped: bool = False
    is_backward: bool = False
    parameter_gradients: int = 0  # of an op that is not grouped: how many of its last results

    def rule(self, op, formula) -> Callable[..., Any]:
        def mapped(info, in_dims, *args):
            size, folded = info.batch_size, list(args)
            sets = self._has_sets(in_dims, args)
            for i in self.maps + self.statistics + (self.parameters if sets else ()):
                if args[i] is not None:
                    t = _batch_first(args[i], in_dims[i], size)
                    if self.grouped or i not in self.parameters:
                        t = t.flatten(0, 1)
                    folded[i] = t if i in self.maps else t.contiguous()
            outputs = (op if self.grouped or not sets else formula)(*folded)
            if isinstance(outputs, torch.Tensor):
                return _unfolded(outputs, size), 0
            maps = len(outputs) - self.parameter_gradients
            unfolded = (_unfolded(t, size) for t in outputs[:maps])
            return (*unfolded, *outputs[maps:]), (0,) * len(outputs)

        return mapped

    def _has_sets(self, in_dims, args) -> bool:
        there = [i for i in self.parameters if args[i] is not None]
        return bool(there) and (
            self.is_backward
            or any(in_dims[i] is not None for i in there)
            or (self.grouped and any(args[i].shape[0] > 1 for i in there))  # of a vmap inside
        )


def _batch_first(t: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _unfolded(t: torch.Tensor, size: int) -> torch.Tensor:
    """What is (size * n, ...) as (size, n, ...)."""
    return t.reshape(size, t.shape[0] // size, *t.shape[1:])
