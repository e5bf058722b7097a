"""nvcc compiles the CUDA library for every architecture: no warnings, no spills, few registers.

No GPU is needed, and no CUDA build of torch: the headers of its stable ABI are the same in all.
"""

import itertools
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

CUDA = Path(__file__).resolve().parents[1] / "csrc" / "cuda"
SOURCES = sorted(CUDA.glob("*.cu"))
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
REGISTERS = 65536  # of a multiprocessor, on all of them
# input_gradient_kernel with all its flags set but the second, channels_last.
STRADDLING_VIEW = re.compile(r"input_gradient_kernelI\w+?Lb0ELi\d+ELb[01]ELb1ELb1ELb1E")
FLAGS = [
    "-std=c++17",
    "-O3",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unknown-pragmas",
    "-Werror=all-warnings",
    "-Xptxas=-v",
]


def find_nvcc():
    """In CUDA_HOME, on PATH, or in NVIDIA's pip packages."""
    purelib = Path(sysconfig.get_paths()["purelib"])
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    homes += sorted(purelib.glob("nvidia/cu*"), reverse=True)
    for home in homes:
        if (nvcc := Path(home) / "bin" / "nvcc").exists():
            return str(nvcc)
    return shutil.which("nvcc")


def gencode():
    """PTX for sm_75, and once for all that came later; machine code from it for each."""
    for architecture in ARCHITECTURES:
        ptx = "compute_75" if architecture == "sm_75" else "compute_80"
        yield f"-gencode=arch={ptx},code={architecture}"


def compile_report(source, output):
    """What ptxas says of each kernel: architecture, name, stack, spills, registers."""
    nvcc = find_nvcc()
    assert nvcc, "no nvcc: set CUDA_HOME or install nvidia-cuda-nvcc, to check the CUDA library"
    include = Path(torch.__file__).parent / "include"
    command = [nvcc, *FLAGS, *gencode(), "-isystem", str(include)]
    command += ["-c", str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    kernel = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'"
        r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads"
        r".*?Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    return [match.groupdict() for match in kernel.finditer(done.stdout + done.stderr)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_compiles_without_warnings_and_spills(source, tmp_path):
    kernels = compile_report(source, tmp_path / "object.o")
    seen = [(kernel["architecture"], kernel["name"]) for kernel in kernels]
    assert seen
    assert sorted(seen) == sorted(itertools.product(ARCHITECTURES, {name for _, name in seen}))
    for kernel in kernels:
        assert (kernel["stack"], kernel["stores"], kernel["loads"]) == ("0", "0", "0"), kernel
        # Memory is kept busy by bursts in flight: 512 threads of a multiprocessor or more, or 256
        # where each has two streams and vectors that straddle channels.
        threads = 256 if STRADDLING_VIEW.search(kernel["name"]) else 480
        assert int(kernel["registers"]) * threads <= REGISTERS, kernel
