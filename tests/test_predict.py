"""Predicted times: the three roofs, by hand."""

import dataclasses

import pytest

from benchmarks.budgets import predict, table

X = 400_000_000
ROW = table.Row(
    "reduce_kernel<Pool<__half, float, false>, false, 8>",
    "sm_90",
    1,
    "global",
    64,
    0,
    0,
    16,
    4,
    4,
    26.0,
)
GATE = dataclasses.replace(ROW, kernel="gate_kernel<__half, false, 8, true, false, false, false>")
LAUNCHES = [
    predict.Launch("reduce_kernel", 5000, 256, 8192),
    predict.Launch("map_kernel", 99, 128, 0),
]


def predicted(launches=LAUNCHES, rows=(ROW, GATE), **machine):
    machine = dataclasses.replace(predict.H200, launch=0.0, **machine)
    return predict.predict(machine, "spatial_gate", "float16", X, launches, rows)


def test_memory_bounds_what_has_loads_enough_in_flight():
    pool, stencil = predicted()
    assert pool.roof == "memory"
    assert pool.seconds == pytest.approx(X / 4.3e12)
    assert stencil.roof == "launch"


def test_latency_bounds_single_loads():
    (pool, _) = predicted(rows=(dataclasses.replace(ROW, in_flight=1), GATE))
    in_flight = 132 * 1024 * 16  # 64 registers: four blocks of 256 threads, a load each
    assert pool.roof == "latency"
    assert pool.seconds == pytest.approx(X * 800e-9 / in_flight)


def test_issue_bounds_long_loops():
    (pool, _) = predicted(rows=(dataclasses.replace(ROW, per_16_bytes=200.0), GATE))
    assert pool.roof == "issue"
    assert pool.seconds == pytest.approx(X / 16 / 32 * 200 / (132 * 4 * 1.98e9))


def test_a_second_look_finds_half_of_l2():
    gate = [predict.Launch("gate_kernel", 5000, 256, 0)]
    (cold,) = predicted(gate, l2_bytes=0)
    (warm,) = predicted(gate, l2_bytes=X)
    assert cold.seconds == pytest.approx(2 * X / 4.3e12)
    assert warm.seconds == pytest.approx(1.5 * X / 4.3e12)


def test_few_blocks_keep_little_in_flight():
    few = [dataclasses.replace(LAUNCHES[0], blocks=66)]
    (pool,) = predicted(few)
    assert pool.seconds == pytest.approx(X * 800e-9 / (66 * 256 * 4 * 16))
