"""The compiled libraries: `_cpu` holds the schemas and the CPU kernels, `_cuda` the CUDA kernels.

Both are plain shared libraries of the LibTorch stable ABI, without a Python symbol. What is missing
is remembered with its reason and its cure, and is said when a backend would have needed it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_BUILD = "build it with `pip install -e . --no-build-isolation` (or `make build`)"


def file_of(name: str) -> Path | None:
    """Where the library `_cpu` or `_cuda` is."""
    return min(_HERE.glob(f"{name}*.so"), default=None)


def _load(name: str) -> str | None:
    """Load a library; the reason why not, or None."""
    file = file_of(name)
    if file is None:
        return f"the library attn_kernels/{name} was not built; {_BUILD}"
    try:
        torch.ops.load_library(file)
    except OSError as error:
        reason = str(error).splitlines()[0]
        return f"the library {file.name} does not load ({reason}); {_BUILD}"
    return None


def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return "this PyTorch is a CPU build; install a CUDA build of PyTorch, then " + _BUILD
    return missing["cpu"] or _load("_cuda")


def _find_triton() -> str | None:
    """Triton's kernels need no library of ours, but its schemas; it is not imported here."""
    found = importlib.util.find_spec("triton") is not None
    return None if found else "triton is not installed; `pip install triton`"


# backend -> why its library is not there, or None.
missing: dict[str, str | None] = {"cpu": _load("_cpu")}
missing["cuda"] = _load_cuda()
missing["triton"] = missing["cpu"] or _find_triton()
