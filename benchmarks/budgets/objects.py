"""csrc/cuda compiled by nvcc: an object for each unit of it, and what ptxas said of its kernels.

Sources that include the same host header have kernels in common: they are one unit, in which nvcc
compiles each kernel once.

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
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
Unit = tuple[Path, ...]
CACHE = ROOT / "build" / "cuda_objects"
# The PTX that the machine code of each architecture is made from; setup.py reads it as well.
PTX = dict(line.split() for line in (CSRC / "cuda/architectures.txt").read_text().splitlines())
BUDGETED = ("sm_80", "sm_90", "sm_100")
OTHERS = tuple(code for code in PTX if code.startswith("sm_") and code not in BUDGETED)
FLAGS = [  # Kernels are fully optimized, host code, where there is any, is not.
    "-std=c++17",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-Xcompiler=-O0,-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unknown-pragmas",
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


def units() -> list[Unit]:
    """The sources of csrc/cuda by the host header that they include."""
    found: dict[str, list[Path]] = {}
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        headers = re.findall(r'#include "(host\w*\.h)"', source.read_text())
        found.setdefault(" ".join(headers), []).append(source)
    return [tuple(sources) for sources in found.values()]


def name(unit: Unit) -> str:
    return "+".join(source.stem for source in unit)


def compiled(
    unit: Unit,
    architectures: Sequence[str] = BUDGETED,
    csrc: Path = CSRC,
    with_host: bool = False,
) -> tuple[Path, list[Kernel]]:
    """The machine code of `unit`, whose headers are in `csrc`, and its kernels; `with_host`: in an
    object with the code of the host.
    """
    nvcc = find_nvcc()
    assert nvcc, "no nvcc: set CUDA_HOME or install nvidia-cuda-nvcc, to check the CUDA library"
    include = Path(torch.__file__).parent / "include"
    gencode = [f"-gencode=arch={PTX[a]},code={a}" for a in architectures]
    command = [nvcc, *FLAGS, *gencode, "-isystem", str(include)]
    command += [f"-I{csrc / 'cuda'}", "-c" if with_host else "-fatbin"]
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    digest = hashlib.sha256((" ".join(command) + version.stdout + torch.__version__).encode())
    for file in [*unit, *sorted(csrc.glob("cuda/*.*h")), *sorted(csrc.glob("common/*.h"))]:
        digest.update(file.read_bytes())
    stem = "-".join([name(unit), *(a.removeprefix("sm_") for a in architectures)])
    target = CACHE / f"{stem}_{digest.hexdigest()[:16]}.o"
    report = target.with_suffix(".log")
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{stem}.lock", "w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            whole = CACHE / f"{stem}.cu"
            whole.write_text("".join(f'#include "{source}"\n' for source in unit))
            command += [str(whole), "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
            for older in CACHE.glob(f"{stem}_*"):
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
