"""Bytes: what a call needs at its peak, and what it keeps for its backward."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from .timing import Task


def peak_bytes(task: Task, device: str) -> int:
    """The most that one run allocates at a time, beyond what was there before it."""
    with task.context():
        state = task.prepare()
        if device == "cuda":
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            kept = task.run(state)
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
            del kept
            return peak
        return cpu_peak_bytes(lambda: task.run(state))


def cpu_peak_bytes(run: Callable[[], object]) -> int:
    """The highest level of the running sum of the profiler's allocations and releases."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with silence(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        kept = run()
    del kept
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """The profiler's C++ writes to stderr itself, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def saved_bytes(fn: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> int:
    """Bytes of the distinct storages that a call saves for its backward, its inputs left out."""
    known = {t.untyped_storage().data_ptr() for t in inputs}
    kept: dict[int, torch.UntypedStorage] = {}  # holds them, so that no address comes twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = fn(*inputs)
    del y
    return sum(storage.nbytes() for storage in kept.values())
