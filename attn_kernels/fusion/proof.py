"""Old against new: outputs, gradients and buffers, in float64, in training and in evaluation."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .find import Found
from .probe import own_randomness
from .rewritten import put, rewritten_of
from .trace import NotFusedError, first_line

Outcome = dict[str, torch.Tensor]


def prove(found: Found) -> None:
    """Raises `NotFusedError` unless the program computes what the module does."""
    new = copy.deepcopy(found.specimen)
    put(new, found.program)
    for training in (True, False):
        for which in (0, 1):
            outcomes = []
            for module in (found.specimen, new):
                twin = copy.deepcopy(module).train(training)
                with own_randomness():
                    given = found.shapes.random(which)
                    try:
                        outcomes.append(outcome(twin, given))
                    except Exception as error:
                        who = "our" if rewritten_of(twin) is not None else "its own"
                        raise NotFusedError(f"{who} forward fails: {first_line(error)}") from error
            old, by_program = outcomes
            compare(old, by_program, "training" if training else "evaluation")


def outcome(module: nn.Module, given: list[torch.Tensor]) -> Outcome:
    """Everything that a step with this module gives."""
    leaves = [x.requires_grad_() for x in given]
    found: Outcome = {}
    loss = torch.zeros((), dtype=torch.float64, device="cpu")
    for i, y in enumerate(tree_leaves(module(*leaves))):
        if isinstance(y, torch.Tensor):
            found[f"output {i}"] = y.detach()
            if y.requires_grad:
                loss = loss + (y * torch.randn_like(y)).sum()
    if loss.requires_grad:
        loss.backward()
    gradients = {f"gradient of input {i}": x.grad for i, x in enumerate(leaves)}
    gradients |= {f"gradient of {name}": p.grad for name, p in module.named_parameters()}
    found |= {name: g for name, g in gradients.items() if g is not None}
    return found | {f"buffer {name}": b for name, b in module.named_buffers()}


def compare(old: Outcome, new: Outcome, mode: str) -> None:
    if old.keys() != new.keys():
        differing = ", ".join(sorted(old.keys() ^ new.keys()))
        raise NotFusedError(f"not equal in {mode}: only one of old and new has {differing}")
    largest = max(_largest(t) for t in old.values())
    for name, expected in old.items():
        if not _close(new[name], expected, largest):
            raise NotFusedError(f"not equal in {mode}: {name}")


def _close(found: torch.Tensor, expected: torch.Tensor, largest: float) -> bool:
    """Equal up to the rounding of float64 in sums of many terms, which may cancel: a bias in front
    of a batch norm has a gradient of 0, but for what the largest numbers leave.
    """
    if found.shape != expected.shape or not expected.is_floating_point():
        return torch.equal(found, expected)
    atol = 1e-9 * _largest(expected) + 1e-12 * largest
    return torch.allclose(found, expected, rtol=0, atol=atol, equal_nan=True)


def _largest(t: torch.Tensor) -> float:
    return t.abs().max().item() if t.is_floating_point() and t.numel() else 0.0
