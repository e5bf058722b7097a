"""Right before fast: every provider's results against float64, before anything is timed.

The measure is the error of each result, y and, where a backward is to be timed, every gradient:
relative in L2, and the largest of any element relative to the largest element. A provider passes if
its errors are at most twice those of eager PyTorch in the same dtype, three times for gradients, or
a few roundings of the dtype, whichever is more; gradients of parameters, which are sums over all
pixels, may have as many roundings as the square root of the number of pixels. Eager PyTorch, the
measure itself, is held to a coarse limit. The rule is that of attn_kernels.accuracy, computed where
the tensors are.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from attn_kernels import accuracy

from .ops import Inputs, Op
from .providers import Provider

NORMS = {"L2": 2.0, "largest element": math.inf}
ROUNDINGS_RESULT, ROUNDINGS_GRADIENT = 2, 8
# Eager may use TF32 in its convolution, hence not far under the half precisions for float32.
EAGER_LIMITS = {
    torch.float64: 1e-10,
    torch.float32: 5e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 1e-1,
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    error: float  # the largest relative error of any result
    complaint: str = ""  # empty: right

    @property
    def right(self) -> bool:
        return not self.complaint


class Judge:
    """Knows the float64 results of one set of inputs, and eager PyTorch's errors on them."""

    def __init__(self, op: Op, inputs: Inputs, gradients: bool):
        self.inputs, self.gradients = inputs, gradients
        self.dtype = inputs.x.dtype
        self.truth = results(op.truth, inputs.double(), gradients)
        self.eager_errors = self.errors(results(op.eager, inputs, gradients))

    def verdict(self, provider: Provider) -> Verdict:
        if provider.is_yardstick:
            return Verdict(0.0)
        with provider.context():
            found = results(provider.fn, self.inputs, self.gradients)
        complaints = []
        errors = self.errors(found)
        for name, error in errors.items():
            limit = self.limit(name, provider.name == "eager")
            if not error <= limit:  # so that NaN does not pass
                complaints.append(complaint(name, error, limit))
        return Verdict(max(errors.values()), "; ".join(complaints))

    def limit(self, name: str, eager: bool) -> float:
        if eager:
            return EAGER_LIMITS[self.dtype]
        is_result = name.startswith("y")
        factor = accuracy.FORWARD if is_result else accuracy.GRADIENT
        roundings = ROUNDINGS_RESULT if is_result else ROUNDINGS_GRADIENT
        if "parameter" in name:  # summed over all pixels, in an order of the provider's choice
            x = self.inputs.x
            roundings = max(roundings, math.sqrt(x.numel() / x.shape[1]))
        return max(factor * self.eager_errors[name], roundings * torch.finfo(self.dtype).eps)

    def errors(self, found: dict[str, torch.Tensor]) -> dict[str, float]:
        return {
            f"{name} ({norm})": relative_error(value, self.truth[name], order)
            for name, value in found.items()
            for norm, order in NORMS.items()
        }


def results(fn, inputs: Inputs, gradients: bool) -> dict[str, torch.Tensor]:
    """y of an inference call and, on request, the gradients of a training call."""
    with torch.no_grad():
        found = {"y": fn(*inputs.tensors)}
    if gradients:
        y = fn(*inputs.tensors)
        values = torch.autograd.grad(y, inputs.tensors, inputs.dy.to(y.dtype))
        found |= {gradient_name(i): value for i, value in enumerate(values)}
    return found


def complaint(name: str, error: float, limit: float) -> str:
    return f"{name}: relative error {error:.1e}, at most {limit:.1e} allowed"


def gradient_name(i: int) -> str:
    return "dx" if i == 0 else f"gradient of parameter {i}"


def relative_error(found: torch.Tensor, truth: torch.Tensor, order: float = 2.0) -> float:
    if found.shape != truth.shape:
        return math.nan
    size = torch.linalg.vector_norm(truth, order).item()
    difference = torch.linalg.vector_norm(found.double() - truth, order).item()
    return difference / size if size > 0 else difference
