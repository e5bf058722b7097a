"""One line for models that exist: gates are found by what they compute, and fused in place.

A module's forward is traced by `torch.fx`, its children staying calls. A product ``x * factor`` is
a gate where the factor follows from x in a way that an op of ours computes; which pooling a node
is, is told by its values, not by its spelling. The forward is then written anew, with the module's
own layers, and put into the module's ``__dict__``: class, parameters, names, hooks, training flag,
device and dtype stay as they are.

Layers that mix statistics are called through the module as before, so that their hooks run. What is
read rather than called (poolings, the layers of a spatial gate, a child that holds a part of one)
is asked at every call whether it is still plain; where it is not, the module's own forward runs.

What is read when a module is traced is fixed: attributes that its forward branches on
(``if self.add_maxpool``) hold as they were. Fuse before `torch.compile`, and again after changing
such attributes (`unfuse`, then `fuse`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .find import Found, find
from .proof import prove
from .report import Report, Row
from .rewritten import put, rewritten_of, take_back
from .trace import NotFusedError, is_opaque

__all__ = ["Report", "Row", "fuse", "unfuse"]


def fuse(
    model: nn.Module, *, verify: bool = True, tails: bool = True, first_max: bool = False
) -> Report:
    """Fuse the attention gates of a model, and the ends of its residual blocks, in place.

    Found today, whatever the code around them: gates per channel by means, variances, maxima and
    minima of whole maps, with any layers between (SE, ECA, cSE, CBAM's channel half), spatial
    attention (both orders of its pools, batch norm or none), CBAM, both gates of GAM, scSE, BAM,
    coordinate attention, other gates by one or two factors that broadcast, shuffle attention,
    SimAM; and tails: batch norm, gate, addition and ReLU, with a gate, a norm or both.

    state_dict, hooks, isinstance, deepcopy, pickle, DistributedDataParallel and torch.compile go on
    as before. A module that is not fused is left as it is, and the report says why.

    Args:
        model: any module. It may be in training or evaluation, on any device, in any dtype.
        verify: prove every gate before it is used: output, gradients of input and parameters and
            running statistics against the module's own, in float64, in training and evaluation, on
            a copy with random parameters.
        tails: fuse batch norm, gate, addition and ReLU at the end of a residual block as one, as
            `attn_kernels.nn.Tail` computes them; there need not be a gate.
        first_max: fuse code whose maxima divide their gradient among equal values (``amax``), too:
            ours give it to the first of them, as ``max`` does. Outputs are the same.

    Returns:
        A report: ``print`` it.

    Raises:
        TypeError: model is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    rows: dict[str, Row] = {}
    programs: dict[str, Found] = {}
    inside = _inside_fused(model)
    with torch.inference_mode(False), torch.enable_grad():
        for path, module in reversed(list(model.named_modules())):  # children before their parent
            if path not in inside and _is_candidate(module):
                options = Options(verify, tails, first_max)
                _consider(path, module, rows, programs, options)
    for path, found in programs.items():
        put(model.get_submodule(path), found.program)
    return Report([rows[path] for path, _ in model.named_modules() if path in rows])


def unfuse(model: nn.Module) -> None:
    """Give every module that `fuse` has changed its own forward again."""
    for module in model.modules():
        take_back(module)


def _inside_fused(model: nn.Module) -> set[str]:
    """Children whose work a module that is fused already does itself."""
    return {
        f"{path}.{child}".lstrip(".")
        for path, module in model.named_modules()
        if (rewritten := rewritten_of(module)) is not None
        for child, _ in rewritten.program.read
    }


def _is_candidate(module: nn.Module) -> bool:
    if is_opaque(module) or type(module).__module__.startswith("attn_kernels."):
        return False
    return type(module).forward is not nn.Module.forward or "forward" in module.__dict__


@dataclass(frozen=True)
class Options:
    verify: bool
    tails: bool
    first_max: bool


def _consider(
    path: str,
    module: nn.Module,
    rows: dict[str, Row],
    programs: dict[str, Found],
    options: Options,
) -> None:
    prefix = f"{path}." if path else ""
    children = {p.removeprefix(prefix): f for p, f in programs.items() if p.startswith(prefix)}
    cls = type(module).__name__
    found, reasons = _found_or_why_not(module, children, options)
    if found is None:
        if reasons:
            rows[path] = Row(path, cls, why_not=tuple(reasons))
        return
    for child in children.keys() & dict(found.program.read).keys():
        del programs[prefix + child], rows[prefix + child]
    programs[path] = found
    whats = tuple(gate.what for gate in found.gates)
    saves = sum(gate.saves for gate in found.gates)
    rows[path] = Row(path, cls, whats, tuple(reasons), saves)


def _found_or_why_not(
    module: nn.Module, children: dict[str, Found], options: Options
) -> tuple[Found | None, list[str]]:
    """With tails if that can be, else without, and what could not be."""
    reasons: list[str] = []
    for with_tails in (True, False) if options.tails else (False,):
        try:
            found = _found(module, children, options, with_tails)
        except NotFusedError as reason:
            reasons.append(str(reason))
            continue
        tails = [r if r.startswith("tail: ") else f"tail: {r}" for r in reasons]
        return found, [*tails, *(found.left if found is not None else ())]
    return None, reasons[-1:]


def _found(
    module: nn.Module, children: dict[str, Found], options: Options, with_tails: bool
) -> Found | None:
    if "forward" in module.__dict__:
        fused = rewritten_of(module) is not None
        raise NotFusedError("is fused already" if fused else "has a forward of its own")
    found = find(module, children, options.first_max, with_tails)
    if found is not None and options.verify:
        prove(found)
    return found
