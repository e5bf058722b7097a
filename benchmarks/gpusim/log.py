"""GPGPU-Sim's log of a run: what it counted for each kernel."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator

SECTOR = 32  # bytes of a DRAM access
DRAM_READS, DRAM_WRITES = ("n_rd", "n_rd_L2_A"), ("n_write", "n_wr_bk")


@dataclasses.dataclass
class Kernel:
    name: str
    blocks: int
    threads: int
    cycles: int = 0
    warp_cycles: int = 0  # resident warps, summed over cores and cycles
    dram_read: int = 0  # bytes; this and what follows is of all kernels so far, in the log
    dram_written: int = 0
    l2_accesses: int = 0
    l2_misses: int = 0


SUMS = ("dram_read", "dram_written", "l2_accesses", "l2_misses")


def kernels(text: str) -> list[Kernel]:
    found = list(_parsed(text))
    totals = [{name: getattr(kernel, name) for name in SUMS} for kernel in found]
    for kernel, before in zip(found[1:], totals, strict=False):
        for name in SUMS:
            setattr(kernel, name, getattr(kernel, name) - before[name])
    return found


def _parsed(text: str) -> Iterator[Kernel]:
    launch = {"blocks": "0", "threads": "0"}
    kernel = None
    for line in text.splitlines():
        if line.startswith("LAUNCH"):
            launch = dict(re.findall(r"(\w+)=(\d+)", line))
        elif line.startswith("kernel_name = "):
            if kernel:
                yield kernel
            name = short_name(line.split("=")[1].strip())
            kernel = Kernel(name, int(launch["blocks"]), int(launch["threads"]))
        elif kernel is None:
            continue
        elif match := re.match(r"(gpu_sim_cycle|gpu_warp_cycles) += (\d+)", line):
            setattr(kernel, "cycles" if "sim" in match[1] else "warp_cycles", int(match[2]))
        elif "n_rd=" in line and "bw_util" in line:  # a line for each channel
            counts = {key: int(value) for key, value in re.findall(r"(n_\w+)=(\d+)", line)}
            kernel.dram_read += SECTOR * sum(counts[key] for key in DRAM_READS)
            kernel.dram_written += SECTOR * sum(counts[key] for key in DRAM_WRITES)
        elif match := re.match(r"L2_total_cache_(accesses|misses) = (\d+)", line):
            setattr(kernel, f"l2_{match[1]}", int(match[2]))
    if kernel:
        yield kernel


def short_name(mangled: str) -> str:
    plain = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    return re.sub(r"^void |\(.*|.*?(?:attn_kernels|base)::", "", plain.split("<")[0]).strip()
