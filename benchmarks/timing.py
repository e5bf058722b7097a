"""How time is taken: all contestants in turn, round after round; the machine's moods hit all alike.

On the CPU a sample is the mean of as many calls as fill a few milliseconds, by the wall clock. On
CUDA it is one call between two events, after the L2 cache has been overwritten (cold), or the mean
of several calls in a row (warm); both as plain launches and as the replay of a CUDA graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

SAMPLE_SECONDS = 5e-3
MAX_CALLS = 500
MIN_ROUNDS, MAX_ROUNDS = 7, 400
WARM_CALLS = 10
FLUSH_BYTES = 256 << 20  # several times any L2 cache


@dataclasses.dataclass(frozen=True)
class Task:
    """prepare() runs untimed and hands run() what it needs."""

    name: str
    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    # Whether a CUDA graph can hold it: it can't where prepare() must run before every run().
    graphable: bool = True


@dataclasses.dataclass(frozen=True)
class Condition:
    launch: str = "plain"  # or "graph"
    cache: str = "warm"  # or "cold"


CPU_CONDITIONS = (Condition(),)
CUDA_CONDITIONS = tuple(
    Condition(launch, cache) for launch in ("plain", "graph") for cache in ("cold", "warm")
)
CONDITIONS = {"cpu": CPU_CONDITIONS, "cuda": CUDA_CONDITIONS}
Sampler = Callable[[], float]  # -> seconds per call
Key = tuple[str, Condition]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Seconds per call, in the order in which they were taken."""

    seconds: list[float]

    def quantile(self, q: float) -> float:
        return quantile(self.seconds, q)

    @property
    def early(self) -> float:
        """Median of the even rounds; `late` of the odd ones. How far they differ is the noise."""
        return quantile(self.seconds[::2], 0.5)

    @property
    def late(self) -> float:
        return quantile(self.seconds[1::2], 0.5)


def quantile(values: Sequence[float], q: float) -> float:
    """Linear between the two nearest."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(q))


def measure(
    tasks: Sequence[Task],
    device: str,
    seconds: float,
    clock=time.perf_counter,
    conditions: Sequence[Condition] | None = None,  # those of the device
) -> tuple[dict[Key, Samples], dict[Key, str]]:
    """Samples of every task under every condition, and what could not be sampled."""
    samplers: dict[Key, Sampler] = {}
    failures: dict[Key, str] = {}
    for task in tasks:
        for condition in conditions or CONDITIONS[device]:
            if condition.launch == "graph" and not task.graphable:
                continue
            try:
                samplers[task.name, condition] = make_sampler(task, condition, device, clock)
            except Exception as error:
                failures[task.name, condition] = first_line(error)
    return {key: Samples(s) for key, s in interleaved(samplers, seconds, clock).items()}, failures


def first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def interleaved(
    samplers: dict[Key, Sampler], seconds: float, clock=time.perf_counter
) -> dict[Key, list[float]]:
    """One sample of each per round, each round starting one further, until the time is up."""
    taken: dict[Key, list[float]] = {key: [] for key in samplers}
    order = list(samplers)
    gc.disable()
    try:
        start = clock()
        for done in range(MAX_ROUNDS if order else 0):
            for key in order:
                taken[key].append(samplers[key]())
            order.append(order.pop(0))
            if done + 1 >= MIN_ROUNDS and clock() - start >= seconds:
                break
    finally:
        gc.enable()
    return taken


def make_sampler(task: Task, condition: Condition, device: str, clock) -> Sampler:
    if device != "cuda":
        return cpu_sampler(task, clock)
    call = graph_of(task) if condition.launch == "graph" else plain(task)
    return cuda_cold_sampler(*call) if condition.cache == "cold" else cuda_warm_sampler(*call)


# ---- CPU ---------------------------------------------------------------------------------------


def cpu_sampler(task: Task, clock) -> Sampler:
    def sample(calls: int) -> float:
        with task.context():
            states = [task.prepare() for _ in range(calls)]
            run = task.run
            start = clock()
            for state in states:
                run(state)
            return (clock() - start) / calls

    sample(1)  # warm up
    once = min(sample(1) for _ in range(3))
    calls = max(1, min(MAX_CALLS, int(SAMPLE_SECONDS / max(once, 1e-9))))
    return lambda: sample(calls)


# ---- CUDA --------------------------------------------------------------------------------------

Call = tuple[Callable[[], Any], Callable[[Any], Any], Callable]  # prepare, run, context


def plain(task: Task) -> Call:
    with task.context():
        for _ in range(3):
            task.run(task.prepare())
    return task.prepare, task.run, task.context


def graph_of(task: Task) -> Call:
    """The task captured once; its replays are what is timed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with task.context(), torch.cuda.stream(stream):
        for _ in range(3):
            task.run(task.prepare())
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with task.context(), torch.cuda.graph(graph, stream=stream):
        task.run(task.prepare())
    return (lambda: None), (lambda _: graph.replay()), contextlib.nullcontext


_flush_buffer: list[torch.Tensor] = []


def flush_cache() -> None:
    """Overwrite the L2 cache. It also gives the host time to queue what comes next."""
    if not _flush_buffer:
        _flush_buffer.append(torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda"))
    _flush_buffer[0].zero_()


def cuda_cold_sampler(prepare, run, context) -> Sampler:
    def sample() -> float:
        with context():
            state = prepare()
            flush_cache()
            return event_seconds(lambda: run(state))

    return sample


def cuda_warm_sampler(prepare, run, context) -> Sampler:
    def sample() -> float:
        with context():
            states = [prepare() for _ in range(WARM_CALLS)]
            run(prepare())
            return event_seconds(lambda: list(map(run, states))) / WARM_CALLS

    return sample


def event_seconds(work: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3
