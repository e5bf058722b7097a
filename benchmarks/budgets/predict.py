"""Predicted times on a GPU that nobody has run: `python -m benchmarks.budgets.predict [SHAPE...]`.

From the budgets (budgets.csv: registers, loads in flight and instructions per 16 bytes), the
launches (blocks, threads and shared memory, by csrc/cuda's own host code) and the bytes that each
kernel moves, as a roofline with three roofs. A kernel takes as long as the slowest of

    memory    its bytes at the rate of a copy
    latency   its bytes at the rate at which the loads in flight can be answered
    issue     its instructions at one per cycle and scheduler

These are predictions with assumptions, printed with them; they are never measurements.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import table

TESTS = Path(__file__).resolve().parents[2] / "tests"
SHAPES = ("256x64x112x112", "256x256x56x56", "256x512x28x28", "256x1024x14x14", "256x2048x7x7")
BUDGET_NAMES = {"float32": "float", "float16": "__half"}


@dataclasses.dataclass(frozen=True)
class Machine:
    name: str
    multiprocessors: int
    clock: float  # Hz
    copy_rate: float  # bytes per second that a copy reaches
    latency: float  # seconds from a load to its answer, memory being busy
    l2_bytes: int
    launch: float  # seconds between two kernels in a stream
    architecture: str

    @property
    def issue_rate(self) -> float:
        return self.multiprocessors * 4 * self.clock


H200 = Machine("H200", 132, 1.98e9, 4.3e12, 800e-9, 50 << 20, 1e-6, "sm_90")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a kernel moves, in multiples of x's bytes, and how many streams its loop loads from."""

    read: float
    written: float
    second_look: bool = False  # at what the kernel before has read: L2 may have it still


WORK = {
    "spatial_gate": {
        "reduce_kernel": Work(1, 0),
        "gate_kernel": Work(1, 1, second_look=True),
        "ordered_kernel": Work(1, 1),
    },
    "spatial_gate_backward": {
        "reduce_kernel": Work(2, 0),
        "input_gradient_kernel": Work(1, 1, second_look=True),
        "ordered_kernel": Work(2, 1),
    },
}


@dataclasses.dataclass(frozen=True)
class Launch:
    kernel: str
    blocks: int
    threads: int
    shared_bytes: int


@dataclasses.dataclass(frozen=True)
class Prediction:
    kernel: str
    seconds: float
    roof: str


def resident_threads(machine: Machine, launch: Launch, registers: int) -> int:
    """On a multiprocessor, with as many blocks as there are of them."""
    granted = 8 * math.ceil(registers / 8) * 32 * math.ceil(launch.threads / 32)
    most = min(
        65536 // granted,
        2048 // launch.threads,
        227 * 1024 // (launch.shared_bytes + 1024),
        math.ceil(launch.blocks / machine.multiprocessors),
    )
    return most * launch.threads


def streaming_row(
    rows: Iterable[table.Row], machine: Machine, op: str, kernel: str, dtype: str
) -> table.Row:
    """The loop of 16-byte loads that moves x: of a plain NCHW launch, without an affine view."""
    reduction = "Pool" if op == "spatial_gate" else "GateGradient"
    found = [
        row
        for row in rows
        if row.architecture == machine.architecture
        and (row.memory, row.load_bytes) == ("global", 16)
        and row.kernel.startswith(f"{kernel}<")
        and re.search(rf"<{BUDGET_NAMES[dtype]}\b", row.kernel)
        and (kernel != "reduce_kernel" or reduction in row.kernel)
        and (kernel != "gate_kernel" or re.search(r"<\w+, \w+, \d, true", row.kernel))  # a map
        and re.search(r"\bfalse\b", row.kernel)
    ]
    assert found, f"no row of {kernel} for {dtype} in budgets.csv"
    return max(found, key=lambda row: (row.in_flight, -row.per_16_bytes))


def predict(
    machine: Machine,
    op: str,
    dtype: str,
    x_bytes: int,
    launches: Sequence[Launch],
    rows: Sequence[table.Row],
) -> list[Prediction]:
    found = []
    for launch in launches:
        work = WORK[op].get(launch.kernel)
        if work is None:  # planes: small beside x, so the time of a launch and a wave of loads
            found.append(Prediction(launch.kernel, machine.launch + 2 * machine.latency, "launch"))
            continue
        row = streaming_row(rows, machine, op, launch.kernel, dtype)
        hit = min(machine.l2_bytes / 2, x_bytes) / x_bytes if work.second_look else 0
        moved = x_bytes * (work.read - hit + work.written)
        loaded = x_bytes * work.read
        in_flight = (
            min(machine.multiprocessors, launch.blocks)
            * resident_threads(machine, launch, row.registers)
            * row.in_flight
            * row.load_bytes
        )
        roofs = {
            "memory": moved / machine.copy_rate,
            "latency": loaded * machine.latency / in_flight,
            "issue": loaded / 16 / 32 * row.per_16_bytes / machine.issue_rate,
        }
        roof = max(roofs, key=lambda name: roofs[name])
        found.append(Prediction(launch.kernel, machine.launch + roofs[roof], roof))
    return found


def geometry(op: str, dtype: str, shape: Sequence[int], machine: Machine) -> list[Launch]:
    """The launches, from csrc/cuda's own host code (tests/cuda_on_cpu builds it for the CPU)."""
    sys.path.insert(0, str(TESTS))
    from cuda_on_cpu import build

    module = build.load_module(build.module_path())
    found = module.geometry_on(
        op, dtype, shape, False, 7, True, False, machine.multiprocessors, machine.l2_bytes
    )
    return [Launch(*launch) for launch in found]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.budgets.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="NxCxHxW")
    parser.add_argument("--dtype", choices=BUDGET_NAMES, default="float16")
    options = parser.parse_args()
    machine, rows = H200, table.read()
    print(f"Predicted, not measured, for {machine.name}. Assumed: {dataclasses.asdict(machine)},")
    print("half of L2 holding what the kernel before looked at last; NCHW, K = 7, no affine view.")
    for shape in options.shapes:
        sizes = [int(size) for size in shape.split("x")]
        x_bytes = math.prod(sizes) * (2 if options.dtype == "float16" else 4)
        for op, maps in (("spatial_gate", 2), ("spatial_gate_backward", 3)):
            launches = geometry(op, options.dtype, sizes, machine)
            predicted = predict(machine, op, options.dtype, x_bytes, launches, rows)
            total = sum(kernel.seconds for kernel in predicted)
            floor = maps * x_bytes / machine.copy_rate
            parts = ", ".join(f"{p.kernel} {1e6 * p.seconds:.0f} ({p.roof})" for p in predicted)
            print(f"{op} {shape}: {1e6 * total:.0f} us, {maps} N are {1e6 * floor:.0f}: {parts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
