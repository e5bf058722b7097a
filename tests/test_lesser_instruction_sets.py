"""The CPU kernels for machines without AVX-512, and without AVX2: those that this machine does not
choose are right as well.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# What has loops of its own for each instruction set.
NUMBERS = {
    "test_squeeze.py": "accuracy or test_sums or ties or rounding",
    "test_affine_gate.py": "accuracy or test_final_pass or test_sums or rounding",
    "test_squeeze_excite.py": "(test_every_result and (silu-hardsigmoid or relu-sigmoid))"
    " or special_values or shut_gate or any_batch",
}


@pytest.fixture(params=["avx2", "default"])
def capability(request):
    return request.param


def run(capability, *command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | {"ATEN_CPU_CAPABILITY": capability},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_every_op(capability):
    run(capability, "attn_kernels", "verify", "--device", "cpu")


@pytest.mark.exhaustive
def test_numbers(capability):
    files = " or ".join(f"({name} and ({numbers}))" for name, numbers in NUMBERS.items())
    paths = [str(HERE / name) for name in NUMBERS]
    run(capability, "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", files, *paths)
