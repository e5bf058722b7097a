"""Builds what runs csrc/cuda on the CPU: a Python module and the programs for the sanitizers.

Everything is built once per content of the sources, into the git-ignored build/cuda_on_cpu.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pybind11
import torch

from benchmarks.budgets import objects

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "cuda_on_cpu"

# Not optimized: what runs is soon done, beside the minutes that it takes to compile.
FLAGS = ["-std=c++20", "-O0", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-unknown-pragmas"]  # "#pragma unroll" is for nvcc
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZERS = {
    "thread": ["-fsanitize=thread", "-O1"],  # runs once for each barrier that is taken out
    "address": ADDRESS,
    "address_other_dtypes": [*ADDRESS, "-DOF_OTHER_DTYPES"],
}


def cuda_sources(csrc: Path = CSRC) -> list[Path]:
    return sorted((csrc / "cuda").glob("*.*h")) + sorted((csrc / "common").glob("*.h"))


def _compile(sources: list[Path], flags: list[str], csrc: Path, stem: str, suffix: str) -> Path:
    command = [os.environ.get("CXX", "g++"), *FLAGS, f"-I{HERE}", f"-I{csrc / 'cuda'}", *flags]
    digest = hashlib.sha256(" ".join(command).encode())
    for file in [*sorted(HERE.glob("*.h")), *sources, *cuda_sources(csrc)]:
        digest.update(file.read_bytes())
    name = f"{stem}_{digest.hexdigest()[:16]}"
    output = CACHE / f"{name}{suffix}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{stem}.lock", "w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            command += [f"-DNAME={name}", *map(str, sources), "-o", f"{CACHE / stem}.partial"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            for older in CACHE.glob(f"{stem}_*{suffix}"):
                older.unlink()
            Path(f"{CACHE / stem}.partial").rename(output)
    return output


def module_path(csrc: Path = CSRC, stem: str = "module", flags: list[str] | None = None) -> Path:
    """The shared library of module.cpp."""
    include = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    flags = ["-shared", "-fPIC", *(flags or []), *(f"-isystem{path}" for path in include)]
    return _compile([HERE / "module.cpp"], flags, csrc, stem, ".so")


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _put(path: Path, text: str) -> None:
    """Writes a file, at once: another process may be reading it."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.rename(path)


def edited_csrc(name: str, edit: Callable[[str, str], str]) -> Path:
    """A copy of csrc/cuda and csrc/common in which `file` reads edit(file, text)."""
    csrc = CACHE / name / "csrc"
    for path in cuda_sources():
        file = str(path.relative_to(CSRC))
        _put(csrc / file, edit(file, path.read_text()))
    return csrc


def host_library() -> Path:
    """The .cu files with their host side, registered as attn_kernels_on_threads for CPU tensors."""
    launch = (HERE / "host_launch.h").read_text()
    csrc = edited_csrc("host", lambda file, text: launch if "cuda_launch" in file else text)
    for file in [CSRC / "ops.cpp", *sorted((CSRC / "cuda").glob("*.cu"))]:
        text = file.read_text().replace("(attn_kernels, CUDA, m)", "(attn_kernels, CPU, m)")
        text = re.sub(r"(STABLE_TORCH_LIBRARY\w*\(attn_kernels),", r"\1_on_threads,", text)
        _put(csrc / "cuda" / f"{file.stem}.cpp", text)
    sources = [csrc / "cuda" / "ops.cpp"]
    for unit in objects.units():  # what they include is compiled once
        sources.append(csrc / "cuda" / f"{objects.name(unit)}.whole.cpp")
        _put(sources[-1], "".join(f'#include "{source.stem}.cpp"\n' for source in unit))
    library = Path(torch.__file__).parent / "lib"
    flags = ["-shared", "-fPIC", f"-isystem{Path(torch.__file__).parent / 'include'}"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-fvisibility=hidden"]
    flags += ["-Wl,--no-as-needed", f"-L{library}", f"-Wl,-rpath,{library}", "-ltorch_cpu"]
    return _compile(sources, flags, csrc, "host", ".so")


def sanitized_program(sanitizer: str) -> Path:
    """sanitize.cpp, built with one of SANITIZERS."""
    return _compile([HERE / "sanitize.cpp"], SANITIZERS[sanitizer], CSRC, sanitizer, "")


def run_sanitized(sanitizer: str, without: str | None = None) -> subprocess.CompletedProcess:
    """Runs the program, with the __syncthreads() at `without` ("file:line") taken out."""
    environment = {
        **os.environ,
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
        "ASAN_OPTIONS": "exitcode=66",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    if without is not None:
        environment["CUDA_ON_CPU_WITHOUT"] = without
    program = sanitized_program(sanitizer)
    return subprocess.run(
        [str(program)], env=environment, capture_output=True, text=True, timeout=120
    )
