"""The pytest-benchmark suite: the cases of `make bench`, one benchmark per provider.

`pytest benchmarks --benchmark-only`. A benchmark whose result is wrong fails instead of being
timed; on CUDA each call is synchronised, so that times include the launch.
"""

import pytest
import torch

from . import cases, runner
from .check import Judge
from .ops import OPS
from .providers import COPY, EAGER, OURS, make

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETUPS = cases.default_setups(DEVICE)
PROVIDERS = (OURS, EAGER, "compile", COPY)


@pytest.mark.parametrize("provider_name", PROVIDERS)
@pytest.mark.parametrize("mode", cases.DEFAULT_MODES)
@pytest.mark.parametrize("setup", SETUPS, ids=[s.label.replace(" ", "-") for s in SETUPS])
def test_speed(benchmark, setup, mode, provider_name):
    torch.compiler.reset()
    inputs = runner.inputs_of(setup, DEVICE)
    provider = make(provider_name, OPS[setup.op], inputs)[0]
    verdict = Judge(OPS[setup.op], inputs, gradients=mode != "fwd").verdict(provider)
    assert verdict.right, verdict.complaint

    task = runner.make_task(provider, mode, inputs)

    def call():
        task.run(None)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{setup.label} {mode}"
    with task.context():
        benchmark(call)
