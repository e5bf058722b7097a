"""The CPU kernels for machines without AVX-512, and without AVX2: those that this machine does not
choose are right as well.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Every op by `verify`; what has loops of its own for each instruction set by its tests of numbers.
NUMBERS = {
    "test_squeeze.py": "accuracy or test_sums or ties or rounding",
    "test_affine_gate.py": "accuracy or test_final_pass or test_sums or rounding",
    "test_squeeze_excite.py": "(test_every_result and (silu-hardsigmoid or relu-sigmoid))"
    " or special_values or shut_gate or any_batch",
}


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_lesser_instruction_sets(capability):
    files = " or ".join(f"({name} and ({numbers}))" for name, numbers in NUMBERS.items())
    pytest_ = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", files]
    for command in (
        ["-m", "attn_kernels", "verify", "--device", "cpu"],
        [*pytest_, *(str(HERE / name) for name in NUMBERS)],
    ):
        run = subprocess.run(
            [sys.executable, *command],
            env=os.environ | {"ATEN_CPU_CAPABILITY": capability},
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
