"""Simulates chains of kernels: `python -m benchmarks.gpusim.run --help` (build.sh first).

Appends a row per kernel to a CSV: what GPGPU-Sim counted, with configuration and commit. The chains
with `ours` in their names are the project's own launches; DTYPE f32 or f16, LAYOUT nchw or
channels_last.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from . import log
from .configs import MACHINES, Machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "simulated.csv"
CHAINS = (
    *("copy", "ours", "eager", "compile"),
    *("ours_bwd", "eager_bwd", "compile_bwd", "recompute_bwd"),
    *(
        f"{op}_{kind}"
        for op in ("se", "se_tail", "cbam_tail")
        for kind in ("ours", "compile", "ours_bwd", "compile_bwd")
    ),
)
TYPES = {"f32": "float", "f16": "__half"}
COLUMNS = (
    *("config", "chain", "dtype", "layout", "shape", "order", "kernel", "blocks", "threads"),
    *("cycles", "read_N", "write_N", "l2_hit", "resident", "right", "commit", "date", "note"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpusim.run", description=__doc__)
    parser.add_argument("config", choices=MACHINES)
    parser.add_argument("chains", help=f"some of {','.join(CHAINS)}")
    parser.add_argument("shapes", help="NxCxHxW, some with commas between")
    parser.add_argument("--dtype", choices=TYPES, default="f32")
    parser.add_argument("--layout", choices=("nchw", "channels_last"), default="nchw")
    parser.add_argument("--csrc", type=Path, default=ROOT / "csrc", help="the sources of `ours`")
    parser.add_argument("--note", default="", help="said in the CSV: what is different this time")
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpusim"), help="build.sh's folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = MACHINES[options.config]
    sources = commit(options.csrc)  # as they are now: they may have changed when a run ends
    program = build(options.work, options.csrc, machine.cores, options.dtype)
    for shape in options.shapes.split(","):
        for chain in options.chains.split(","):
            case = (chain, options.dtype, options.layout, shape)
            start = time.monotonic()
            text = simulate(options.work, machine, program, case)
            rows = rows_of(text, machine, options, case, sources)
            append(options.out, rows)
            total = sum(row["cycles"] for row in rows)
            right = rows[0]["right"] if rows else "no kernel ran"
            print(*case, f"{total:,} cycles, {right}, {time.monotonic() - start:.0f} s", flush=True)
            for row in rows:
                print("   ", row["kernel"], row["cycles"], f"{row['read_N']} N read", flush=True)
    return 0


def build(work: Path, csrc: Path, cores: int, dtype: str) -> Path:
    """The driver, built anew where a source is younger."""
    folder = work / f"driver_{cores}_{dtype}_{csrc.resolve().parent.name}"
    program = folder / "gate_sim"
    sources = [*csrc.rglob("*.*h"), *HERE.glob("driver/*"), HERE / "build_driver.sh"]
    newest = max(source.stat().st_mtime for source in sources)
    if not program.exists() or program.stat().st_mtime < newest:
        command = [
            HERE / "build_driver.sh",
            work,
            csrc.resolve(),
            str(cores),
            TYPES[dtype],
            folder.name,
        ]
        subprocess.run([str(word) for word in command], check=True)
    return program


def simulate(work: Path, machine: Machine, program: Path, case: tuple[str, ...]) -> str:
    folder = work / "out" / "_".join((program.parent.name, machine.base, *case))
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir(parents=True)
    machine.write(work / "gpgpu-sim", folder)
    environment = {
        **os.environ,
        "CUDA_INSTALL_PATH": str(work / "cuda11"),
        "PTXAS_CUDA_INSTALL_PATH": str(work / "cuda11"),
        "CUOBJDUMP_SIM_FILE": "unused",
        "SIM_PTX": str(program.parent / "gate_sim.ptx"),
        "SIM_PTXINFO": str(program.parent / "gate_sim.ptxinfo"),
        "LD_LIBRARY_PATH": str(next(work.glob("gpgpu-sim/lib/gcc-*/cuda-*/release"))),
        "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
    }
    chain, dtype, layout, shape = case
    command = [str(program), chain, dtype, layout, *shape.split("x")]
    with (folder / "log").open("w") as output:
        subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    return (folder / "log").read_text(errors="replace")


def rows_of(
    text: str, machine: Machine, options: argparse.Namespace, case: tuple, sources: str
) -> list[dict]:
    chain, dtype, layout, shape = case
    n, c, h, w = map(int, shape.split("x"))
    size = n * c * h * w * (2 if dtype == "f16" else 4)
    verdict = re.search(r"^RESULT (\w+)", text, re.M)
    rows = []
    for order, kernel in enumerate(log.kernels(text)):
        values = {
            "config": options.config,
            "chain": chain,
            "dtype": dtype,
            "layout": layout,
            "shape": shape,
            "order": order,
            "kernel": kernel.name,
            "blocks": kernel.blocks,
            "threads": kernel.threads,
            "cycles": kernel.cycles,
            "read_N": round(kernel.dram_read / size, 3),
            "write_N": round(kernel.dram_written / size, 3),
            "l2_hit": round(1 - kernel.l2_misses / max(1, kernel.l2_accesses), 3),
            "resident": round(kernel.warp_cycles / max(1, kernel.cycles * machine.cores), 1),
            "right": verdict[1] if verdict else "none",
            "commit": sources,
            "date": datetime.date.today().isoformat(),
            "note": options.note,
        }
        rows.append(values)
    return rows


def commit(csrc: Path) -> str:
    """Of the sources that ran; -dirty if they are not what was committed."""
    git = ["git", "-C", str(csrc)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True)
    return name.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def append(file: Path, rows: list[dict]) -> None:
    new = not file.exists()
    with file.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
