"""Bytes really moved: DRAM counters of Nsight Compute, as multiples of x, beside the traffic model.

ncu profiles `benchmarks.ncu_target`, which runs each case once after evicting the L2 cache. ncu
itself neither locks clocks nor flushes caches between kernels, so what one kernel leaves in the
cache for the next counts as it would in use. What is still dirty in the cache at the end is forced
out by a last kernel, of which only the writes are counted.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import traffic
from .cases import DTYPES, Setup, shape_text
from .errors import InputError
from .results import machine
from .runner import Plan

FILE_NAME = "ncu_traffic.csv"
READ, WRITE = "dram__bytes_read.sum", "dram__bytes_write.sum"
# The kernel that parts one section from the next; no op of ours uses it.
MARKER = "erfinv"
ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Measured:
    kernels: int = 0
    read_bytes: int = 0
    write_bytes: int = 0


def run(plan: Plan, out: Path, console: Console) -> int:
    """Profile the plan, write FILE_NAME, show it."""
    if plan.device != "cuda":
        raise InputError("--ncu: needs a CUDA device")
    if shutil.which("ncu") is None:
        raise InputError("--ncu: Nsight Compute's ncu is not on PATH")
    with tempfile.TemporaryDirectory() as folder:
        labels, report = profile(plan, Path(folder))
    rows = [row_of(*pair) for pair in zip(labels, sections(report), strict=False)]
    if not rows:
        raise InputError("--ncu: ncu profiled nothing; its output is above")
    write(rows, out)
    console.print(table(rows))
    return 0


def profile(plan: Plan, folder: Path) -> tuple[list[dict], str]:
    """The cases in the order in which they ran, and ncu's CSV report."""
    request, labels, report = (folder / n for n in ("request.json", "labels.jsonl", "report.csv"))
    request.write_text(
        json.dumps(
            {
                "setups": [dataclasses.asdict(setup) for setup in plan.setups],
                "modes": list(plan.modes),
                "providers": list(plan.providers),
            }
        )
    )
    command = [
        *("ncu", "--clock-control", "none", "--cache-control", "none"),
        *("--profile-from-start", "off", "--metrics", f"{READ},{WRITE}"),
        *("--csv", "--page", "raw", "--print-units", "base", "--log-file", str(report)),
        *(sys.executable, "-m", "benchmarks.ncu_target", str(request), str(labels)),
    ]
    subprocess.run(command, check=False, cwd=ROOT)  # where -m finds benchmarks
    return (
        [json.loads(line) for line in labels.read_text().splitlines()] if labels.exists() else [],
        report.read_text() if report.exists() else "",
    )


def sections(report: str) -> list[Measured]:
    """ncu's rows, summed between markers: first of a case's pair opens it, second its eviction."""
    found: list[Measured] = []
    markers = 0
    for row in kernel_rows(report):
        if MARKER in row["Kernel Name"]:
            markers += 1
            if markers % 2:
                found.append(Measured())
            continue
        if not found:
            continue
        evicting = markers % 2 == 0
        found[-1].write_bytes += number(row[WRITE])
        if not evicting:
            found[-1].kernels += 1
            found[-1].read_bytes += number(row[READ])
    return found


def kernel_rows(report: str) -> Iterable[dict[str, str]]:
    """The rows of kernels: not ncu's own remarks (==...), nor the row of units."""
    lines = [line for line in report.splitlines() if line.startswith('"')]
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        if row.get("ID", "").strip().isdigit():
            yield row


def number(text: str) -> int:
    return round(float(text.replace(",", "")))


def row_of(label: dict, measured: Measured) -> dict:
    setup = Setup(**label["setup"] | {"shape": tuple(label["setup"]["shape"])})
    dtype = DTYPES[setup.dtype]
    modelled = traffic.moved(setup.op, label["provider"], label["mode"], setup.shape, dtype)
    total = measured.read_bytes + measured.write_bytes
    return {
        "op": setup.op,
        "provider": label["provider"],
        "mode": label["mode"],
        "dtype": setup.dtype,
        "shape": shape_text(setup.shape),
        "layout": setup.layout,
        **dataclasses.asdict(measured),
        "in_x": f"{traffic.in_maps(total, setup.shape, dtype):.3f}",
        "modelled_in_x": ""
        if modelled is None
        else f"{traffic.in_maps(modelled, setup.shape, dtype):.3f}",
        **machine("cuda"),
    }


def write(rows: list[dict], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / FILE_NAME).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"--out: cannot write to {out}: {error.strerror}") from error


def table(rows: list[dict]) -> Table:
    result = Table(title="DRAM traffic in multiples of x", title_justify="left")
    for name in ("op", "shape", "dtype", "mode", "provider"):
        result.add_column(name, no_wrap=True)
    for name in ("kernels", "measured", "model"):
        result.add_column(name, justify="right")
    for row in rows:
        result.add_row(
            *(row[name] for name in ("op", "shape", "dtype", "mode", "provider")),
            *(str(row["kernels"]), row["in_x"], row["modelled_in_x"]),
        )
    return result
