"""How an op gets its derivatives at the dispatcher; __init__.py says which path goes where."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import is_grad_enabled
from torch._C import (
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _get_tracing_state,
)
from torch._C import _dispatch_tls_is_dispatch_key_excluded as is_key_excluded
from torch._C import _dispatch_tls_set_dispatch_key_excluded as set_key_excluded
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .. import ops
from ..libraries import missing
from .vmap import Rules

Formula = Callable[..., Any]

_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality
_library = torch.library.Library("attn_kernels", "IMPL")  # its registrations live as long as it


def differentiable(
    name: str,
    function: type[torch.autograd.Function],
    formula: Formula,
    fold: Rules,
    kept: int | None = None,
) -> Formula:
    """Registers the derivatives of the op `name` at the dispatcher; returns the way to call it.

    `function` has setup_context and backward; its forward is the op. `formula` is the op in
    PyTorch's own operations, with the same arguments and results: forward mode and ONNX go
    through it.
    `fold` is how a batch of `torch.vmap` is folded into N. The argument number `kept`, which
    `function` saves last, is copied for the backward: eager's formula lets its user change it in
    place before that.
    """
    if missing["cpu"] is not None:
        return lambda *args: getattr(ops, name)  # which says what is missing
    op = getattr(ops, name)
    call = op._op  # an overload's own __call__ is one more call of Python
    apply = _apply_of(function)
    apply_eagerly = _eager_apply(function, call, kept)

    def forward(*args):
        # apply() has turned both off; under torch.func they belong to the levels below this one.
        torch._C._set_grad_enabled(True)
        torch._C._set_fwd_grad_enabled(True)
        try:
            return _below_autograd(call, args)
        finally:
            torch._C._set_grad_enabled(False)
            torch._C._set_fwd_grad_enabled(False)

    def dispatched(keyset, *args):
        if _is_for_onnx() or (
            forward_ad._current_level >= 0 and any(_has_tangent(t) for t in args)
        ):
            return formula(*args)
        if is_grad_enabled() and _any_requires_grad(*args):
            with enable_single_level_autograd_function():
                return apply(*args)
        with _AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def run(*args):
        """The op; in plain eager mode without the dispatcher's detour through Python."""
        if sees_ops():
            copies = kept is not None and is_grad_enabled() and args[kept].requires_grad
            return op(*(_with_copy(args, kept) if copies else args))
        if is_grad_enabled() and _any_requires_grad(*args):
            return apply_eagerly(*args)
        return _below_autograd(call, args)

    function.forward = staticmethod(forward)  # type: ignore[method-assign]
    _library.impl(name, dispatched, "Autograd", with_keyset=True)
    torch.library.register_vmap(op, fold.rule(op, formula), lib=_library)
    return run


def sees_ops() -> bool:
    """Whether compile, export, trace, torch.func or forward mode must see the op itself."""
    return (
        is_compiling()
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _get_tracing_state() is not None
    )


def _apply_of(function: type[torch.autograd.Function]) -> Formula:
    """Its apply(), which binds defaults to the signature anew at every call, without that: a fifth
    of a small gate's cost.
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def _eager_apply(
    function: type[torch.autograd.Function], call: Formula, kept: int | None
) -> Formula:
    """apply() of `function` for plain eager mode. The copy has no node: `saved_by` gives it one
    where a backward is differentiated.
    """

    def setup_context(ctx, inputs, output):
        ctx.kept = inputs[kept]
        function.setup_context(ctx, _with_copy(inputs, kept), output)

    statics = {"forward": staticmethod(lambda *args: _below_autograd(call, args))}
    if kept is not None:
        statics["setup_context"] = staticmethod(setup_context)
    return _apply_of(type(function)(function.__name__, (function,), statics))  # type: ignore[misc]


class _CopyOf(torch.autograd.Function):
    """copy, original -> copy, as a function of the original."""

    generate_vmap_rule = True

    @staticmethod
    def forward(copy, original):
        return copy.view_as(copy)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, d_copy):
        return None, d_copy


def _with_copy(args: tuple[Any, ...], kept: int | None) -> tuple[Any, ...]:
    return tuple(t.clone() if i == kept else t for i, t in enumerate(args))


def _below_autograd(call: Formula, args: tuple[Any, ...]) -> Any:
    """What the op's kernel returns. torch's own guard for this costs as much as a small op."""
    if is_key_excluded(_AUTOGRAD):  # by inference mode, say
        return call(*args)
    set_key_excluded(_AUTOGRAD, True)
    try:
        return call(*args)
    finally:
        set_key_excluded(_AUTOGRAD, False)


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
            ctx.set_materialize_grads(False)  # as plain zeros, beside DTensors
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
            found = dict(zip(wanted, pull_back(_filled(gradients, outputs)), strict=True))
            return tuple(found.get(i) for i in range(len(inputs)))

    return differentiable(name, Backward, formula, fold)


def _filled(gradients, outputs):
    """The gradients of one output or of a tuple of them, zeros for what has none."""
    if isinstance(outputs, torch.Tensor):
        return _filled(gradients, (outputs,))[0]
    pairs = zip(gradients, outputs, strict=True)
    return tuple(torch.zeros_like(y) if d is None else d for d, y in pairs)


def saved_by(ctx, maps: int) -> Sequence[Any]:
    """What ctx saved: some maps first, which the ops take in any strides, then what they take
    contiguous. Hooks on saved tensors may bring it back otherwise.
    """
    saved = ctx.saved_tensors  # read once: a checkpoint gives them out once
    if is_grad_enabled() and hasattr(ctx, "kept"):
        saved = (*saved[:-1], _CopyOf.apply(saved[-1], ctx.kept))
    for t in saved[maps:]:
        if t is not None and not t.is_contiguous():
            return *saved[:maps], *(t if t is None else t.contiguous() for t in saved[maps:])
    return saved


def added(*gradients: torch.Tensor | None) -> torch.Tensor | None:
    """The sum of those that are there."""
    there = [g for g in gradients if g is not None]
    return sum(there[1:], there[0]) if there else None
