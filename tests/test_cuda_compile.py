"""nvcc compiles the CUDA library for every architecture: no warnings, no spills, few registers."""

import itertools

import pytest

from benchmarks.budgets import objects

REGISTERS = 65536  # of a multiprocessor, on all of them


@pytest.mark.parametrize("source", objects.SOURCES, ids=lambda source: source.name)
def test_compiles_without_warnings_and_spills(source):
    _, kernels = objects.compiled(source)
    seen = [(kernel.architecture, kernel.name) for kernel in kernels]
    assert seen
    names = {name for _, name in seen}
    assert sorted(seen) == sorted(itertools.product(objects.ARCHITECTURES, names))
    for kernel in kernels:
        assert (kernel.stack, kernel.spills) == (0, 0), kernel
        # Memory is kept busy by threads in flight: 768 of a multiprocessor's 1024 or more, and 512
        # where the stencil is unrolled.
        has_stencil = "conv_gate" in kernel.name or "d_input" in kernel.name
        threads = 512 if has_stencil else 768
        assert kernel.registers * threads <= REGISTERS, kernel
