"""What is here, what is not, why, and how to get it: `python -m attn_kernels info`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import torch
from rich.console import Console
from rich.table import Table

from ._version import __version__
from .backends import BACKENDS, why_not
from .libraries import file_of

_SERVES = {
    "cuda": "CUDA tensors, hand-written kernels",
    "triton": "CUDA tensors, Triton kernels",
    "cpu": "CPU tensors, native kernels",
    "reference": "any tensor, plain PyTorch",
}


def info() -> None:
    console = Console()
    console.print(_versions())
    console.print(_backends())
    for name in ("_cpu", "_cuda"):
        file = file_of(name)
        if file is not None:  # for those who load a model without this package: not in a table,
            console.print(f"library {file}", soft_wrap=True, highlight=False)  # which cuts it off


def _versions() -> Table:
    table = Table(title="Versions", show_header=False)
    table.add_row("attn-kernels", __version__)
    table.add_row("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})")
    has_triton = importlib.util.find_spec("triton") is not None
    table.add_row("triton", importlib.metadata.version("triton") if has_triton else "none")
    table.add_row("python", platform.python_version())
    capability = torch.backends.cpu.get_cpu_capability()
    table.add_row("CPU", f"{capability}, {torch.get_num_threads()} threads, {platform.machine()}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        table.add_row(
            f"cuda:{index}", f"{properties.name}, sm_{properties.major}{properties.minor}"
        )
    return table


def _backends() -> Table:
    table = Table(title="Backends, best first")
    for column in ("backend", "serves", "here", "why not, and the cure"):
        table.add_column(column)
    for backend in BACKENDS:
        reason = why_not(backend)
        here = "[green]yes[/]" if reason is None else "[yellow]no[/]"
        table.add_row(backend, _SERVES[backend], here, reason or "")
    return table
