"""Every op on this machine against the float64 reference: `python -m attn_kernels verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from . import functional, reference
from .accuracy import FORWARD, GRADIENT, Verdict, judge
from .backends import DTYPES, backend_for
from .checks import ACTIVATIONS
from .reference.squeeze import STATISTICS

# (N, C, H, W): odd, tiny, wide, deep, and one that no cache line divides.
SHAPES = ((2, 64, 28, 28), (1, 3, 17, 31), (3, 1, 1, 1), (1, 130, 1, 65), (2, 257, 7, 7))


@dataclass(frozen=True)
class Op:
    """An op as a function of x and parameters, whose shapes follow from x's channels."""

    name: str
    fused: Callable[..., torch.Tensor]
    reference: Callable[..., torch.Tensor]
    parameters: Callable[[int], list[tuple[int, ...]]]


OPS = (
    Op("channel_pool", functional.channel_pool, reference.channel_pool, lambda c: []),
    *(
        Op(f"{name} {k}x{k}", getattr(functional, name), getattr(reference, name), shapes)
        for name in ("spatial_attention", "spatial_gate")
        for k, shapes in ((k, lambda c, k=k: [(1, 2, k, k), (1,)]) for k in (3, 5, 7))
    ),
    *(
        Op(
            f"gam_channel_gate {activation}",
            partial(functional.gam_channel_gate, activation=activation),
            partial(reference.gam_channel_gate, activation=activation),
            lambda c: [(-(-c // 4), c), (-(-c // 4),), (c, -(-c // 4)), (c,)],
        )
        for activation in ACTIVATIONS
    ),
    Op(
        "squeeze",
        lambda x: torch.cat(functional.squeeze(x, STATISTICS), 1),
        lambda x: torch.cat(reference.squeeze(x, STATISTICS), 1),
        lambda c: [],
    ),
    *(
        Op(
            f"squeeze_excite {activation} {gate}",
            partial(functional.squeeze_excite, activation=activation, gate=gate),
            partial(reference.squeeze_excite, activation=activation, gate=gate),
            lambda c: [(-(-c // 4), c, 1, 1), (-(-c // 4),), (c, -(-c // 4), 1, 1), (c,)],
        )
        for activation, gate in (("relu", "sigmoid"), ("silu", "hardsigmoid"))
    ),
    Op("affine_gate", functional.affine_gate, reference.affine_gate, lambda c: [(c,), (c,)]),
    Op(
        "scale_gate",
        lambda x, *affine: functional.scale_gate(x, x.flip(1), *affine),
        lambda x, *affine: reference.scale_gate(x, x.flip(1), *affine),
        lambda c: [(c,), (c,)],
    ),
)


def verify(device: str, dtypes: tuple[torch.dtype, ...] = DTYPES) -> bool:
    """Print a row per op and dtype, with the worst error over all shapes; whether all are right."""
    table = Table(title=f"attn-kernels on {device}: worst error, in parts of what is allowed")
    for column in ("op", "dtype", "backend", "forward", "gradients", "verdict"):
        table.add_column(column)
    all_right = True
    for op in OPS:
        for dtype in dtypes:
            forward, gradients = worst(check(op, dtype, device))
            right = forward <= 1 and gradients <= 1
            all_right &= right
            backend = backend_for(op.name.split()[0], torch.empty(0, device=device, dtype=dtype))
            verdict = "[green]right[/]" if right else "[red]WRONG[/]"
            table.add_row(
                op.name, _short(dtype), backend, f"{forward:.2f}", f"{gradients:.2f}", verdict
            )
    Console().print(table)
    return all_right


def check(op: Op, dtype: torch.dtype, device: str) -> Iterator[tuple[bool, Verdict]]:
    """(is it a gradient, verdict) for every result, over all shapes and both memory formats."""
    for seed, shape in enumerate(SHAPES):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            inputs = _inputs(op, shape, dtype, device, memory_format, seed)
            truth = _results(op.reference, [t.double() for t in inputs])
            plain = _results(op.reference, inputs)
            ours = _results(op.fused, inputs)
            for i, results in enumerate(zip(ours, plain, truth, strict=True)):
                factor = GRADIENT if i else FORWARD
                # Sums over pixels: signs cancel, but on the way sums of n terms of size 1 are
                # about sqrt(n), and are rounded at that size.
                scale = truth[0].numel() ** 0.5 if i > 1 else 0.0
                for verdict in judge(*results, factor, scale):
                    yield i > 0, verdict


def worst(verdicts: Iterator[tuple[bool, Verdict]]) -> tuple[float, float]:
    """The largest error of the forward and of the gradients, in parts of what is allowed."""
    found = [0.0, 0.0]
    for is_gradient, verdict in verdicts:
        ratio = verdict.error / verdict.allowed if verdict.error else 0.0
        found[is_gradient] = max(found[is_gradient], ratio if ratio == ratio else float("inf"))
    return found[0], found[1]


def _inputs(op, shape, dtype, device, memory_format, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = [x.to(device, dtype).contiguous(memory_format=memory_format)]
    for parameter in op.parameters(shape[1]):
        values = torch.randn(parameter, generator=generator, dtype=torch.float64)
        fan_in = max(torch.Size(parameter).numel() // parameter[0], 1)
        inputs.append((values / fan_in**0.5).to(device, dtype))
    return inputs


def _results(function, inputs):
    """Output, then the gradient of every input."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(-1)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    # Rounded as float32 and the halves will see it, so that all of them get the same gradient.
    y.backward(dy.bfloat16().to(y))
    return [y, *(leaf.grad for leaf in leaves)]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
