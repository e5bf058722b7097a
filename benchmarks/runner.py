"""The measurement: build the contestants of each setup, judge them, time them, write rows."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from . import memory, timing, traffic
from .cases import DTYPES, LAYOUTS, Setup, shape_text
from .check import Judge, Verdict
from .errors import InputError
from .ops import OPS, Inputs, make_inputs
from .providers import MissingError, Provider, make
from .results import Row, Writer

# Bytes per element of x beside the contestants' own: the float64 results, and what makes them.
CHECK_BYTES = 64
MAPS_IN_FLIGHT = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    setups: Sequence[Setup]
    modes: Sequence[str]
    providers: Sequence[str]  # of providers.NAMES
    device: str
    seconds: float  # of sampling per setup and mode
    deadline: float = float("inf")  # by time.monotonic(): no setup starts after it

    @property
    def steps(self) -> int:
        return len(self.setups) * len(self.modes)


def check_memory(setups: Iterable[Setup], device: str) -> None:
    """Refuse a shape that does not fit before anything is measured."""
    free = free_bytes(device)
    for setup in setups:
        elements = 1
        for extent in setup.shape:
            elements *= extent
        needed = elements * (CHECK_BYTES + MAPS_IN_FLIGHT * DTYPES[setup.dtype].itemsize)
        if needed > free:
            raise InputError(
                f"--shapes: {shape_text(setup.shape)} in {setup.dtype} needs about "
                f"{needed / 2**30:.1f} GiB with its float64 check; {free / 2**30:.1f} GiB are free"
            )


def free_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    free = 1 << 62
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    group = Path("/sys/fs/cgroup")
    maximum, current = group / "memory.max", group / "memory.current"
    if maximum.exists() and maximum.read_text().strip() != "max":
        free = min(free, int(maximum.read_text()) - int(current.read_text()))
    return free


def run(
    plan: Plan,
    writer: Writer,
    say: Callable[[str], None],
    begin: Callable[[str], None],
    done: Callable[[], None],
) -> None:
    """Measure the plan. say() gets what the user should know; begin() and done() bracket steps."""
    for setup in plan.setups:
        if time.monotonic() > plan.deadline:
            say("The time is up: the remaining cases were not measured.")
            return
        begin(f"{setup.label} check")
        gc.collect()  # not while the clock runs
        torch.compiler.reset()  # compiled for one shape each; there is a limit to how many live
        inputs = inputs_of(setup, plan.device)
        providers = contestants(plan.providers, setup, inputs, say)
        verdicts = judge(setup, inputs, providers, plan.modes, say)
        for mode in plan.modes:
            begin(f"{setup.label} {mode}")
            write_mode(plan, setup, mode, inputs, providers, verdicts, writer)
            done()


def inputs_of(setup: Setup, device: str) -> Inputs:
    return make_inputs(
        OPS[setup.op], setup.shape, DTYPES[setup.dtype], LAYOUTS[setup.layout], device
    )


def contestants(
    names: Sequence[str], setup: Setup, inputs: Inputs, say: Callable[[str], None]
) -> list[Provider]:
    found: list[Provider] = []
    for name in names:
        try:
            found += make(name, OPS[setup.op], inputs)
        except MissingError as missing:
            say(f"{name} is left out of {setup.op}: {missing}")
    return found


def judge(
    setup: Setup,
    inputs: Inputs,
    providers: Sequence[Provider],
    modes: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Verdict | Exception]:
    """A verdict on each provider, or what it raised instead of a result."""
    judge = Judge(OPS[setup.op], inputs, gradients=set(modes) != {"fwd"})
    verdicts: dict[str, Verdict | Exception] = {}
    for provider in providers:
        try:
            verdict = judge.verdict(provider)
        except Exception as error:
            verdicts[provider.name] = error
            say(f"{provider.name} failed on {setup.label}: {timing.first_line(error)}")
            continue
        verdicts[provider.name] = verdict
        if not verdict.right:
            say(f"{provider.name} is WRONG on {setup.label}: {verdict.complaint}")
    return verdicts


def write_mode(
    plan: Plan,
    setup: Setup,
    mode: str,
    inputs: Inputs,
    providers: Sequence[Provider],
    verdicts: dict[str, Verdict | Exception],
    writer: Writer,
) -> None:
    right = [p for p in providers if getattr(verdicts[p.name], "right", False)]
    tasks = {p.name: make_task(p, mode, inputs) for p in right}
    samples, failures = timing.measure(list(tasks.values()), plan.device, plan.seconds)
    for provider in providers:
        base = base_row(setup, mode, provider.name)
        verdict = verdicts[provider.name]
        if isinstance(verdict, Exception):
            writer.write(
                dataclasses.replace(base, status="failed", note=timing.first_line(verdict))
            )
        elif not verdict.right:
            writer.write(
                dataclasses.replace(
                    base, status="wrong", error=verdict.error, note=verdict.complaint
                )
            )
        else:
            base.error = None if provider.is_yardstick else verdict.error
            base.peak_bytes = memory.peak_bytes(tasks[provider.name], plan.device)
            if mode != "fwd" and not provider.is_yardstick:
                with provider.context():
                    base.saved_bytes = memory.saved_bytes(provider.fn, inputs.tensors)
            for row in timed_rows(base, samples, failures):
                writer.write(row)


def make_task(provider: Provider, mode: str, inputs: Inputs) -> timing.Task:
    fn, tensors, dy = provider.fn, inputs.tensors, inputs.dy

    def measure_up(_):
        with torch.no_grad():
            return fn(mode)

    def infer(_):
        with torch.no_grad():
            return fn(*tensors)

    def forward():
        return fn(*tensors)

    def backward(y):
        return torch.autograd.grad(y, tensors, dy)

    def train(_):
        return torch.autograd.grad(fn(*tensors), tensors, dy)

    if provider.is_yardstick:
        return timing.Task(provider.name, measure_up, context=provider.context)
    if mode == "fwd":
        return timing.Task(provider.name, infer, context=provider.context)
    if mode == "full":
        return timing.Task(provider.name, train, context=provider.context)
    return timing.Task(
        provider.name, backward, prepare=forward, context=provider.context, graphable=False
    )


def base_row(setup: Setup, mode: str, provider: str) -> Row:
    dtype = DTYPES[setup.dtype]
    return Row(
        op=setup.op,
        provider=provider,
        mode=mode,
        dtype=setup.dtype,
        shape=shape_text(setup.shape),
        layout=setup.layout,
        moved_bytes=traffic.moved(setup.op, provider, mode, setup.shape, dtype),
        limit_bytes=traffic.limit(setup.op, mode, setup.shape, dtype),
    )


def timed_rows(
    base: Row,
    samples: dict[timing.Key, timing.Samples],
    failures: dict[timing.Key, str],
) -> Iterable[Row]:
    def at(condition: timing.Condition, **values) -> Row:
        return dataclasses.replace(base, launch=condition.launch, cache=condition.cache, **values)

    for (name, condition), taken in samples.items():
        if name == base.provider:
            row = at(condition)
            row.set_times(taken)
            yield row
    for (name, condition), reason in failures.items():
        if name == base.provider:
            yield at(condition, status="failed", note=reason)
