"""nvcc compiles the CUDA library for every architecture: no warnings, no spills, few registers. The
host side with it in `make exhaustive`; in `make test` another compiler does (tests/cuda_on_cpu).
"""

import itertools
import re

import pytest

from benchmarks.budgets import objects

REGISTERS = 65536  # of a multiprocessor, on all of them
# input_gradient_kernel with all its flags set but the second, channels_last.
STRADDLING_VIEW = re.compile(r"input_gradient_kernelI\w+?Lb0ELi\d+ELb[01]ELb1ELb1ELb1E")
LAYERS = re.compile(r"excite_(layer_)?kernelI")  # they read weights, not maps


@pytest.mark.parametrize(
    "architectures",
    [objects.BUDGETED, pytest.param(objects.OTHERS, marks=pytest.mark.exhaustive)],
    ids=" ".join,
)
@pytest.mark.parametrize("unit", objects.units(), ids=objects.name)
def test_compiles_without_warnings_and_spills(unit, architectures):
    with_host = architectures == objects.OTHERS
    _, kernels = objects.compiled(unit, architectures, with_host=with_host)
    seen = [(kernel.architecture, kernel.name) for kernel in kernels]
    assert seen
    names = {name for _, name in seen}
    assert sorted(seen) == sorted(itertools.product(architectures, names))
    for kernel in kernels:
        assert (kernel.stack, kernel.spills) == (0, 0), kernel
        # Memory is kept busy by bursts in flight: 512 threads of a multiprocessor or more, or 256
        # where each has two streams and vectors that straddle channels, or where there is no map.
        few = STRADDLING_VIEW.search(kernel.name) or LAYERS.search(kernel.name)
        threads = 256 if few else 512
        assert kernel.registers * threads <= REGISTERS, kernel
