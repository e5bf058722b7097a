"""The checks of the CUDA kernels can fail: each barrier and term is taken out, and is missed."""

import ctypes

import pytest
import torch
from cuda_on_cpu import build, check
from mutants.mutation import Mutation, with_switches


def barriers():
    """Every __syncthreads() in csrc/cuda, as "file:line"."""
    for source in build.cuda_sources():
        for number, line in enumerate(source.read_text().splitlines(), 1):
            if "__syncthreads()" in line:
                yield f"{source.name}:{number}"


def test_the_kernels_wait_in_no_other_way():
    """Shuffles, fences and atomics would have to be taken out in turn as well."""
    for source in (build.CSRC / "cuda").glob("*.*h"):
        for other in ("__shfl", "__syncwarp", "__threadfence", "atomic", "asm", "__syncthreads_"):
            assert other not in source.read_text(), f"{source.name} has {other}"


@pytest.mark.parametrize("barrier", list(barriers()))
def test_a_missing_barrier_is_a_race(barrier):
    done = build.run_sanitized("thread", without=barrier)
    assert done.returncode == 66
    assert "ThreadSanitizer: data race" in done.stderr


def edited(file, source):
    source = with_switches(MUTATIONS, file, source)
    if file == "cuda/device.cuh":  # which all kernels include
        source = source.replace("#pragma once\n", f"#pragma once\n{SWITCH}", 1)
    return source


SWITCH = 'extern "C" {\ninline int mutation = 0;\n}\n'
GATE, POOL, WEIGHT = "cuda/spatial_gate.cuh", "cuda/channel_pool.cuh", "cuda/conv_weight.cuh"
STENCIL = "cuda/stencil.cuh"
MUTATIONS = [
    Mutation("dx without dy * map", GATE, "= <<value[i] * gate[p]>> + d_mean[p]", "Real(0)"),
    Mutation("dx without d_mean", GATE, "gate[p] + <<d_mean[p]>>", "Real(0)"),
    Mutation("dx with d_mean not / C", GATE, "tile_d_mean[j + i] / <<Real(shape.c)>>", "Real(1)"),
    Mutation("dx without d_max", GATE, "d_mean[p] + (is_top ? <<d_max[p]>> :", "Real(0)"),
    Mutation("d_max to a thread's last tie", GATE, "<<here < stat[i].argmax>> ?", "true"),
    Mutation(
        "d_max to the last thread's tie", GATE, "<<a.argmax < b.argmax>> ?", "a.argmax > b.argmax"
    ),
    Mutation("d_map of one channel", GATE, "stat[i].d_map += <<batch[i]>>", "Real(0)"),
    Mutation(
        "sigmoid not differentiated",
        GATE,
        "<<sigmoid_backward(total.d_map, map[at])>>",
        "total.d_map",
    ),
    Mutation("pool: dx without d_mean", POOL, "= <<d_mean[p]>> + (is_top", "Real(0)"),
    Mutation("pool: dx without d_max", POOL, "(is_top ? <<d_max[p]>> :", "Real(0)"),
    Mutation("pool: d_mean not / C", POOL, "tile.at(j + i, 2, 0)] / <<Real(shape.c)>>", "Real(1)"),
    Mutation(
        "pool: d_max to the last tie", POOL, "<<b.channel < a.channel>>", "b.channel > a.channel"
    ),
    Mutation("weight not turned around", STENCIL, "to_mean += <<last[-t]>>", "weight[t]"),
    Mutation(
        "max weight not turned around", STENCIL, "to_max += <<max_last[-t]>>", "weight[k * k + t]"
    ),
    Mutation("no d_bias", WEIGHT, "j < tile.count; ++j) sum += <<tile_d_logit[j]>>;", "Real(0)"),
    Mutation(
        "d_weight of half a tile",
        WEIGHT,
        "sum += <<tile_d_logit[j] * row[j]>>",
        "2 * j < tile.count ? tile_d_logit[j] * row[j] : Real(0)",
    ),
    Mutation("d_weight of the first tiles", WEIGHT, "index < <<tiles>>;", "gridDim.x"),
    Mutation("d_weight without a partial", WEIGHT, "row < <<rows>>;", "rows - 1"),
]


@pytest.fixture(scope="module")
def mutant():
    """One module with every mutation behind a switch, and the switch."""
    csrc = build.edited_csrc("mutants", edited)
    path = build.module_path(csrc, "mutants", ["-DCUDA_ON_CPU_ONLY_FLOAT32"])
    module = build.load_module(path)
    return module, ctypes.c_int.in_dll(ctypes.CDLL(str(path)), "mutation")


def check_all(module):
    """Cases of test_cuda_on_threads.py that between them see every term."""

    def ties(shape, generator):
        return torch.randint(-1, 2, shape, generator=generator).float()

    cases = [((1, 150, 2, 3), 3, ties), ((1, 16, 4, 6), 7, None), ((1025, 1, 1, 2), 1, None)]
    for shape, k, values in cases:
        check.assert_right(check.Kernels(module), check.random_inputs(shape, k, values=values))


def test_without_mutation_all_is_right(mutant):
    module, switch = mutant
    switch.value = 0
    check_all(module)


@pytest.mark.parametrize(
    "number", range(1, len(MUTATIONS) + 1), ids=lambda n: MUTATIONS[n - 1].name
)
def test_a_missing_term_is_an_error(mutant, number):
    module, switch = mutant
    switch.value = number
    with pytest.raises(AssertionError, match=r"error|other places"):
        check_all(module)
