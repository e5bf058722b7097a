"""What simulated.csv says, chain beside chain: `python -m benchmarks.gpusim.table [FILE]`.

A line per machine, shape and chain: kilocycles, and how many times a copy's and a compile-like
chain's (for the spatial gate's backward: recompute_bwd's) that is; DRAM traffic in multiples of x.
The last row of a chain counts where it was simulated more than once with the same note.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import sys
from pathlib import Path

from .run import RESULTS

CASE = ("config", "dtype", "layout", "shape")


@dataclasses.dataclass
class Chain:
    cycles: int = 0
    read: float = 0
    written: float = 0
    kernels: list[str] = dataclasses.field(default_factory=list)
    right: bool = True

    def add(self, row: dict[str, str]) -> None:
        self.cycles += int(row["cycles"])
        self.read += float(row["read_N"])
        self.written += float(row["write_N"])
        self.right &= row["right"] == "PASS"
        self.kernels.append(
            f"{row['kernel'].removesuffix('_kernel')} {int(row['cycles']) / 1000:.1f}"
        )


def chains(file: Path) -> dict[tuple[str, ...], dict[tuple[str, str], Chain]]:
    """Of each case, its chains by name and note."""
    found: dict[tuple[str, ...], dict[tuple[str, str], Chain]] = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            of_case = found.setdefault(tuple(row[name] for name in CASE), {})
            key = (row["chain"], row["note"])
            if row["order"] == "0":
                of_case[key] = Chain()
            of_case[key].add(row)
    return found


def beside(name: str) -> str:
    """The compile-like chain that a chain is set beside."""
    if name.count("_") == 1 and name.endswith("_bwd"):
        return "recompute_bwd"
    return re.sub(r"(copy|ours|eager|compile)(?=(_bwd)?$)", "compile", name)


def ratio(chain: Chain, other: Chain | None) -> str:
    return f"{chain.cycles / other.cycles:.2f}" if other else "-"


def table(file: Path) -> str:
    lines = [
        "| machine, shape | chain | kcycles | / copy | / compile | DRAM read, written | kernels |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for case, of_case in sorted(chains(file).items()):
        config, dtype, layout, shape = case
        for (name, note), chain in of_case.items():
            compiled = of_case.get((beside(name), ""))
            cells = [
                f"{config} {shape} {dtype} {layout}",
                f"{name}{', ' if note else ''}{note}{'' if chain.right else ' WRONG'}",
                f"{chain.cycles / 1000:.1f}",
                ratio(chain, of_case.get(("copy", ""))),
                ratio(chain, compiled),
                f"{chain.read:.2f} N, {chain.written:.2f} N",
                ", ".join(chain.kernels),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))
