"""What every CUDA kernel costs by its machine code: `python -m benchmarks.budgets [--check]`.

For each kernel of csrc/cuda, as nvcc compiles it for sm_80, sm_90 and sm_100, a row per innermost
loop that loads from global memory, or that loads 16 bytes from shared memory, and behind these per
loop around others that itself loads 16 bytes from global memory:

    registers, shared, spills   per thread; bytes per block beside what a launch adds; bytes
    loop                        their number in the kernel; 0: what is in no such loop, where
                                there is none or it has the only loads of 16 bytes
    memory                      which of both
    load_bytes, loads           of a thread in a round of the loop, at the loop's widest
    in_flight                   of these, how many are issued before the first is needed
    per_16_bytes                instructions of the loop for 16 bytes of these loads

No kernel runs for this. budgets.csv keeps the rows; a test fails where they are no longer true, so
that a change of a kernel shows in its diff what it costs.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import objects, sass

FILE = Path(__file__).parent / "budgets.csv"


@dataclasses.dataclass(frozen=True, order=True)
class Row:
    kernel: str  # with its template's arguments
    architecture: str
    loop: int
    memory: str
    registers: int
    shared: int
    spills: int
    load_bytes: int
    loads: int
    in_flight: int
    per_16_bytes: float

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.kernel, self.architecture, self.memory, self.loop


def measure(
    units: Sequence[objects.Unit] | None = None,
    architectures: Sequence[str] = objects.BUDGETED,
    csrc: Path = objects.CSRC,
) -> list[Row]:
    rows = set()
    for unit in units or objects.units():
        machine_code, kernels = objects.compiled(unit, architectures, csrc)
        said = {(kernel.name, kernel.architecture): kernel for kernel in kernels}
        for architecture in architectures:
            for name, code in sass.functions(machine_code, architecture).items():
                rows.update(rows_of(said[name, architecture], code))
    names = plain_names({row.kernel for row in rows})
    return sorted(dataclasses.replace(row, kernel=names[row.kernel]) for row in rows)


def rows_of(kernel: objects.Kernel, code: list[sass.Instruction]) -> list[Row]:
    every = list(sass.loops(code))
    loops = [loop for loop in every if any(i.load_bytes for i in loop)]
    loops += [loop for loop in sass.loops_around(code) if widest(loop, "global") == 16]
    shared = [loop for loop in every if loop not in loops and widest(loop, "shared") == 16]
    rows = numbered(kernel, loops, "global") + numbered(kernel, shared, "shared")
    if not any(i.load_bytes == 16 for loop in loops for i in loop):
        inside = {i.address for loop in loops for i in loop}
        outside = [i for i in code if i.address not in inside]
        if not loops or any(i.load_bytes == 16 for i in outside):
            rows.append(loop_row(kernel, 0, outside, "global"))
    return rows


def widest(loop: list[sass.Instruction], memory: str) -> int:
    return max((i.loads(memory) for i in loop), default=0)


def numbered(kernel: objects.Kernel, loops: list[list[sass.Instruction]], memory: str) -> list[Row]:
    return [loop_row(kernel, number, loop, memory) for number, loop in enumerate(loops, 1)]


def loop_row(kernel: objects.Kernel, number: int, loop: list[sass.Instruction], memory: str) -> Row:
    width = widest(loop, memory)
    loads = sum(i.loads(memory) == width > 0 for i in loop)
    return Row(
        kernel=kernel.name,
        architecture=kernel.architecture,
        loop=number,
        memory=memory,
        registers=kernel.registers,
        shared=kernel.shared,
        spills=kernel.spills,
        load_bytes=width,
        loads=loads,
        in_flight=sass.in_flight(loop, width, memory) if loads else 0,
        per_16_bytes=round(16 * len(loop) / (width * loads), 1) if loads else 0.0,
    )


def plain_names(mangled: set[str]) -> dict[str, str]:
    """kernel<arguments> for each mangled name: without namespaces, parameters and words."""
    ordered = sorted(mangled)
    done = subprocess.run(
        ["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True
    )
    names = {}
    for name, plain in zip(ordered, done.stdout.splitlines(), strict=True):
        plain = re.sub(r"attn_kernels::|\(anonymous namespace\)::|^void ", "", plain)
        plain = plain[: plain.index(">(") + 1] if ">(" in plain else plain.split("(")[0]
        names[name] = plain
    return names


def text(rows: list[Row]) -> str:
    file = io.StringIO()
    fields = [field.name for field in dataclasses.fields(Row)]
    writer = csv.DictWriter(file, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return file.getvalue()


def read(file: Path = FILE) -> list[Row]:
    with file.open(newline="") as lines:
        return [
            Row(
                **{
                    field.name: {"str": str, "int": int, "float": float}[str(field.type)](
                        row[field.name]
                    )
                    for field in dataclasses.fields(Row)
                }
            )
            for row in csv.DictReader(lines)
        ]


def differences(kept: list[Row], measured: list[Row]) -> list[str]:
    """What is no longer as the table says."""
    old, new = ({row.key: row for row in rows} for rows in (kept, measured))
    found = []
    for key in sorted(old.keys() | new.keys()):
        name = "{} {} {} loop {}".format(*key)
        if key not in new:
            found.append(f"{name}: gone")
        elif key not in old:
            found.append(f"{name}: new, {new[key]}")
        elif old[key] != new[key]:
            changes = [
                f"{field.name} {getattr(old[key], field.name)} -> {getattr(new[key], field.name)}"
                for field in dataclasses.fields(Row)
                if getattr(old[key], field.name) != getattr(new[key], field.name)
            ]
            found.append(f"{name}: {', '.join(changes)}")
    return found
