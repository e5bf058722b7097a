"""csrc/cuda compiled by nvcc: an object for each source, and what ptxas said of its kernels.

Compiled once per content of the sources, into the git-ignored build/cuda_objects, for all who look
at the objects. No GPU is needed, and no CUDA build of torch: the headers of its stable ABI are the
same in all.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
CACHE = ROOT / "build" / "cuda_objects"
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
FLAGS = [
    "-std=c++17",
    "-O3",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unknown-pragmas",
    "-Werror=all-warnings",
    "-Xptxas=-v",
]
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What ptxas says of a kernel; sizes in bytes, `shared` without what a launch adds."""

    name: str
    architecture: str
    stack: int
    spills: int
    registers: int
    shared: int


def find_nvcc() -> str | None:
    """In CUDA_HOME, on PATH, or in NVIDIA's pip packages."""
    purelib = Path(sysconfig.get_paths()["purelib"])
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    homes += sorted(purelib.glob("nvidia/cu*"), reverse=True)
    for home in homes:
        if (nvcc := home / "bin" / "nvcc").exists():
            return str(nvcc)
    return shutil.which("nvcc")


def gencode(architectures: list[str]) -> Iterator[str]:
    """PTX for sm_75, and once for all that came later; machine code from it for each."""
    for architecture in architectures:
        ptx = "compute_75" if architecture == "sm_75" else "compute_80"
        yield f"-gencode=arch={ptx},code={architecture}"


def compiled(
    source: Path, architectures: list[str] = ARCHITECTURES, csrc: Path = CSRC
) -> tuple[Path, list[Kernel]]:
    """The object of `source`, whose headers are in `csrc`, and its kernels."""
    nvcc = find_nvcc()
    assert nvcc, "no nvcc: set CUDA_HOME or install nvidia-cuda-nvcc, to check the CUDA library"
    include = Path(torch.__file__).parent / "include"
    command = [nvcc, *FLAGS, *gencode(architectures), "-isystem", str(include)]
    command += [f"-I{csrc / 'cuda'}", "-c", str(source)]
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    digest = hashlib.sha256((" ".join(command) + version.stdout + torch.__version__).encode())
    for file in [source, *sorted(csrc.glob("cuda/*.*h")), *sorted(csrc.glob("common/*.h"))]:
        digest.update(file.read_bytes())
    target = CACHE / f"{source.stem}_{digest.hexdigest()[:16]}.o"
    report = target.with_suffix(".log")
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{source.stem}.lock", "w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
            for older in CACHE.glob(f"{source.stem}_*"):
                if older != target:
                    older.unlink()
            report.write_text(done.stdout + done.stderr)
    return target, [_kernel(match.groupdict()) for match in KERNEL.finditer(report.read_text())]


def _kernel(said: dict[str, str]) -> Kernel:
    spills = int(said["stores"]) + int(said["loads"])
    return Kernel(
        name=said["name"],
        architecture=said["architecture"],
        stack=int(said["stack"]),
        spills=spills,
        registers=int(said["registers"]),
        shared=int(said["shared"] or 0),
    )
