"""The order of things when time is taken on CUDA, by a CUDA that writes down what it is told."""

import contextlib

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import Condition, Task


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def trace(monkeypatch):
    """What happens, in order; each run takes a millisecond of the device's time, a replay half."""
    trace = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = trace.count("run") + 0.5 * trace.count("replay")
            trace.append("event")

        def synchronize(self):
            trace.append("wait")

        def elapsed_time(self, end):
            return end.at - self.at

    class Graph:
        def replay(self):
            trace.append("replay")

    @contextlib.contextmanager
    def capture(graph, stream):
        trace.append("capture")
        yield
        trace.append("captured")

    for name, fake in {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": capture,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing, "flush_cache", lambda: trace.append("flush"))
    monkeypatch.setattr(timing, "MIN_ROUNDS", 1)
    monkeypatch.setattr(timing, "MAX_ROUNDS", 1)
    return trace


def task(trace, **options):
    return Task("a", lambda state: trace.append("run"), lambda: trace.append("prepare"), **options)


def test_cold_flushes_after_preparing_and_before_the_first_event(trace):
    sample = timing.make_sampler(task(trace), Condition("plain", "cold"), "cuda", None)
    trace.clear()
    assert sample() == 1e-3
    assert trace == ["prepare", "flush", "event", "run", "event", "wait"]


def test_warm_is_the_mean_of_prepared_calls_after_one_untimed(trace):
    sample = timing.make_sampler(task(trace), Condition("plain", "warm"), "cuda", None)
    trace.clear()
    assert sample() == 1e-3
    calls = timing.WARM_CALLS
    untimed = ["prepare"] * (calls + 1) + ["run"]
    assert trace == [*untimed, "event", *["run"] * calls, "event", "wait"]


def test_a_graph_is_captured_once_after_warming_up_and_its_replays_are_timed(trace):
    sample = timing.make_sampler(task(trace), Condition("graph", "cold"), "cuda", None)
    assert trace[-4:] == ["capture", "prepare", "run", "captured"]
    assert trace[:-4] == ["prepare", "run"] * 3
    trace.clear()
    assert sample() == 0.5e-3
    assert trace == ["flush", "event", "replay", "event", "wait"]


def test_all_conditions_are_measured_but_graphs_of_what_must_be_prepared(trace):
    samples, failures = timing.measure([task(trace)], "cuda", 0.0)
    assert set(samples) == {("a", c) for c in timing.CUDA_CONDITIONS}
    assert not failures
    samples, failures = timing.measure([task(trace, graphable=False)], "cuda", 0.0)
    assert {condition.launch for _, condition in samples} == {"plain"}


def test_what_cannot_be_captured_fails_alone(trace, monkeypatch):
    def refuses(graph, stream):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuses)
    samples, failures = timing.measure([task(trace)], "cuda", 0.0)
    assert {condition.launch for _, condition in samples} == {"plain"}
    assert set(failures) == {("a", Condition("graph", c)) for c in ("cold", "warm")}
    assert "not permitted" in failures["a", Condition("graph", "cold")]
