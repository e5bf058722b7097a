"""Who does the work: ours by backend, eager PyTorch, torch.compile, peers; and two yardsticks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

import attn_kernels as ak
from attn_kernels.backends import BACKENDS, backend_for, why_not

from .ops import Inputs, Op

Function = Callable[..., torch.Tensor]

COPY, PRODUCTS = YARDSTICKS = ("copy", "products")  # of memory, and of arithmetic
EAGER = "eager"
OURS = "ours"
NAMES = (
    *(OURS, EAGER, "compile", "compile-max-autotune", "compile-ours", "compile-gate"),
    *("timm", "reference", *YARDSTICKS),
)
DEFAULT_AGAINST = (EAGER, "compile", "timm")


class MissingError(Exception):
    """This provider is not there, or has no such op; the message says which."""


@dataclasses.dataclass(frozen=True)
class Provider:
    """fn(x, *parameters) -> y, to be called inside context(). A yardstick is no implementation:
    its fn(mode) does what it stands for.
    """

    name: str
    fn: Callable[..., Any]
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext

    @property
    def is_yardstick(self) -> bool:
        return self.name in YARDSTICKS


def make(name: str, op: Op, inputs: Inputs) -> list[Provider]:
    """The providers behind one of NAMES: several for `ours`, one for any other; or MissingError.
    Only ops that consist of matrix products have that yardstick.
    """
    if name == OURS:
        return ours(op, inputs)
    if name == "reference":
        return [Provider(name, op.truth)]
    if name == "compile":
        return [Provider(name, torch.compile(op.eager, dynamic=False))]
    if name == "compile-ours":
        ours_alone = op.ours(inputs.x, inputs.parameters)
        return [Provider(name, torch.compile(ours_alone, dynamic=False, fullgraph=True))]
    if name == "compile-gate":
        if not op.gate:
            raise MissingError(f"{op.name} is no tail around a gate")
        around = op.with_our_gate(inputs.x, inputs.parameters)
        return [Provider(name, torch.compile(around, dynamic=False, fullgraph=True))]
    if name == "compile-max-autotune":
        # Without inductor's own CUDA graphs: graph replay is measured alike for everybody.
        options = {"mode": "max-autotune-no-cudagraphs", "dynamic": False}
        return [Provider(name, torch.compile(op.eager, **options))]
    if name == "timm":
        return [Provider(name, timm_layer(op, inputs))]
    if name == COPY:
        return [Provider(name, lambda mode: inputs.x.clone())]
    if name == PRODUCTS:
        return [Provider(name, gam_products(inputs))] if op.name == "gam_channel_gate" else []
    return [Provider(name, op.eager)]


def ours(op: Op, inputs: Inputs) -> list[Provider]:
    """One provider for each compiled backend that serves the op on x's device."""
    function = op.ours(inputs.x, inputs.parameters)
    best = backend_for(op.served_as, inputs.x)
    found, reasons = [], []
    for backend in BACKENDS:
        if backend == "reference":
            continue
        if backend == best:  # not forced: forcing costs host time that users don't pay
            found.append(Provider(f"{OURS}-{backend}", function))
            continue
        reason = why_not(backend)
        if reason is None:
            try:
                with ak.use_backend(backend):
                    backend_for(op.served_as, inputs.x)
            except ValueError as error:
                reason = str(error)
            else:
                found.append(
                    Provider(
                        f"{OURS}-{backend}", function, lambda chosen=backend: ak.use_backend(chosen)
                    )
                )
        reasons.append(f"{backend}: {reason}")
    if not found:
        raise MissingError("; ".join(reasons))
    return found


def timm_layer(op: Op, inputs: Inputs) -> Function:
    """timm's layer of the same gate, without its batch norm, so that it is the same function."""
    if op.name != "spatial_gate":
        raise MissingError(f"timm has no layer for {op.name}")
    try:
        from timm.layers.cbam import SpatialAttn
    except ImportError as error:
        raise MissingError(f"timm does not import ({error}); `pip install timm`") from error

    (weight,) = inputs.parameters
    layer = SpatialAttn(kernel_size=weight.shape[-1])
    layer.conv.conv.weight = weight
    layer.conv.bn = torch.nn.Identity()
    return lambda x, weight: layer(x)


def gam_products(inputs: Inputs) -> Callable[[str], None]:
    """The matrix products of GAM's channel gate alone, on pixels that lie as they like it best: two
    forward and four backward, as eager PyTorch needs, which keeps the gate for the backward.
    """
    x, w1, _, w2, _ = (t.detach() for t in inputs.tensors)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous()
    hidden = pixels @ w1.t()
    gate = hidden @ w2.t()

    def run(mode: str) -> None:
        if mode != "bwd":
            (pixels @ w1.t()) @ w2.t()
        if mode != "fwd":
            d_hidden = gate @ w2
            gate.t() @ hidden
            d_hidden @ w1
            d_hidden.t() @ pixels

    return run
