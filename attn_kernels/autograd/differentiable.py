"""How an op gets its derivatives at the dispatcher; __init__.py says which path goes where."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch._C import (
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _get_tracing_state,
)
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from .. import ops
from ..libraries import missing
from .vmap import Rules

Formula = Callable[..., Any]

_library = torch.library.Library("attn_kernels", "IMPL")  # its registrations live as long as it


def differentiable(
    name: str, function: type[torch.autograd.Function], formula: Formula, fold: Rules
) -> Formula:
    """Registers the derivatives of the op `name` at the dispatcher; returns the way to call it.

    `function` has setup_context and backward; its forward is the op. `formula` is the op in
    PyTorch's own operations, with the same arguments and results: forward mode and ONNX go
    through it.
    `fold` is how a batch of `torch.vmap` is folded into N.
    """
    if missing["cpu"] is not None:
        return lambda *args: getattr(ops, name)  # which says what is missing
    op = getattr(ops, name)
    # apply() binds defaults to the signature anew at every call: a fifth of a small gate's cost.
    apply = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def forward(*args):
        # apply() has turned both off; under torch.func they belong to the levels below this one.
        torch._C._set_grad_enabled(True)
        torch._C._set_fwd_grad_enabled(True)
        try:
            with _AutoDispatchBelowAutograd():
                return op(*args)
        finally:
            torch._C._set_grad_enabled(False)
            torch._C._set_fwd_grad_enabled(False)

    def dispatched(keyset, *args):
        if _is_for_onnx() or (
            forward_ad._current_level >= 0 and any(_has_tangent(t) for t in args)
        ):
            return formula(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            with enable_single_level_autograd_function():
                return apply(*args)
        with _AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def run(*args):
        """The op; in plain eager mode without the dispatcher's detour through Python."""
        if (  # compile, export, trace, torch.func and forward mode must see the op itself
            torch.compiler.is_compiling()
            or _are_functorch_transforms_active()
            or forward_ad._current_level >= 0
            or _get_tracing_state() is not None
        ):
            return op(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return apply(*args)
        with _AutoDispatchBelowAutograd():
            return op(*args)

    function.forward = staticmethod(forward)  # type: ignore[method-assign]
    _library.impl(name, dispatched, "Autograd", with_keyset=True)
    torch.library.register_vmap(op, fold.rule(op, formula), lib=_library)
    return run


def _is_for_onnx() -> bool:
    """Whether the op is to end in a graph of ONNX's own operators."""
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


def _has_tangent(t: object) -> bool:
    return isinstance(t, torch.Tensor) and forward_ad.unpack_dual(t).tangent is not None


def differentiable_backward(name: str, formula: Formula, fold: Rules) -> Formula:
    """A backward op, whose own derivatives are those of its formula, to any order."""

    class Backward(torch.autograd.Function):
        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.settings = [None if isinstance(t, torch.Tensor) else t for t in inputs]
            ctx.save_for_backward(*(t if isinstance(t, torch.Tensor) else None for t in inputs))

        @staticmethod
        def backward(ctx, *gradients):
            inputs = [
                setting if t is None else t
                for t, setting in zip(ctx.saved_tensors, ctx.settings, strict=True)
            ]
            wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]

            def of_wanted(*tensors):
                for i, t in zip(wanted, tensors, strict=True):
                    inputs[i] = t
                return formula(*inputs)

            outputs, pull_back = torch.func.vjp(of_wanted, *(inputs[i] for i in wanted))
            cotangents = gradients if isinstance(outputs, tuple) else gradients[0]
            found = dict(zip(wanted, pull_back(cotangents), strict=True))
            return tuple(found.get(i) for i in range(len(inputs)))

    return differentiable(name, Backward, formula, fold)


def saved_by(ctx, maps: int) -> list[Any]:
    """What ctx saved: some maps first, which the ops take in any strides, then what they take
    contiguous. Hooks on saved tensors may bring it back otherwise.
    """
    saved = ctx.saved_tensors  # read once: a checkpoint gives them out once
    first, others = saved[:maps], saved[maps:]
    return [*first, *(t if t is None else t.contiguous() for t in others)]


def added(*gradients: torch.Tensor | None) -> torch.Tensor | None:
    """The sum of those that are there."""
    there = [g for g in gradients if g is not None]
    return sum(there[1:], there[0]) if there else None
