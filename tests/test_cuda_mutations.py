"""The checks of the CUDA kernels can fail: each barrier and term is taken out, and is missed."""

import ctypes
import re

import pytest
import torch
from cuda_on_cpu import build, check
from mutants.mutation import Mutation, with_switches


def meetings():
    """Every barrier, fence and atomic in csrc/cuda, as "file:line"."""
    for source in build.cuda_sources():
        for number, line in enumerate(source.read_text().splitlines(), 1):
            code = line.split("//")[0]
            if any(call in code for call in ("__syncthreads()", "__threadfence()", "atomicAdd(")):
                yield f"{source.name}:{number}"


def test_the_kernels_meet_in_no_other_way():
    """Shuffles and other atomics would have to be taken out in turn as well."""
    others = r"__shfl|__syncwarp|__threadfence_|\batomic(?!Add\()|\basm\b|__syncthreads_|volatile"
    for source in (build.CSRC / "cuda").glob("*.*h"):
        code = re.sub(r"//.*", "", source.read_text())
        assert not re.search(others, code), source.name


@pytest.mark.parametrize("meeting", list(meetings()))
def test_what_is_missing_is_a_race_or_an_endless_wait(meeting):
    done = build.run_sanitized("thread", without=meeting)
    assert done.returncode == 66
    assert "ThreadSanitizer: data race" in done.stderr or "waits for ever" in done.stderr


def edited(file, source):
    source = with_switches(MUTATIONS, file, source)
    if file == "cuda/device.cuh":  # which all kernels include
        source = source.replace("#pragma once\n", f"#pragma once\n{SWITCH}", 1)
    return source


SWITCH = 'extern "C" {\ninline int mutation = 0;\n}\n'
POOL, GATE = "cuda/channel_pool.cuh", "cuda/gate.cuh"
FIRST, LAST = "cuda/gate_gradient.cuh", "cuda/input_gradient.cuh"
REDUCE, STREAM, VIEW = "cuda/reduce.cuh", "cuda/stream.cuh", "cuda/view.cuh"
STENCIL, WEIGHT = "cuda/stencil.cuh", "cuda/conv_weight.cuh"
MUTATIONS = [
    Mutation("no residual", GATE, "y[i] += <<widen(residual[u].value[i])>>", "Real(0)"),
    Mutation("no ReLU", GATE, "y[i] = <<relu(y[i])>>", "y[i]"),
    Mutation("no map", GATE, "y[i] *= <<map(u, i)>>", "Real(1)"),
    Mutation(
        "gate without the view's shift",
        GATE,
        "affine(y[i], scale(u, i), <<shift(u, i)>>)",
        "Real(0)",
    ),
    Mutation(
        "a straddling vector's next channel", STREAM, "return <<i < split_>> ? value_[u]", "true"
    ),
    Mutation("dx without dr * map", LAST, "df += <<widen(dr[u].value[i]) * map(u, i)>>", "Real(0)"),
    Mutation("dx without d_mean", LAST, "df = <<d_mean(u, i)>> * inverse_c", "Real(0)"),
    Mutation("dx with d_mean not / C", LAST, "d_mean(u, i) * <<inverse_c>>;", "Real(1)"),
    Mutation("dx without d_max", LAST, "df += <<d_max(u, i)>>;", "Real(0)"),
    Mutation("dx without scale", LAST, "dx[i] = <<scale(u, i)>> * df", "Real(1)"),
    Mutation("d_scale without x", LAST, "df * <<widen(x[u].value[i])>>", "Real(1)"),
    Mutation("no d_shift", LAST, "of.shift += <<df>>", "Real(0)"),
    Mutation("d_scale of one lane", LAST, "lane < <<last>>; ++lane", "first + 1"),
    Mutation("d_scale of one slot", LAST, "slot < <<a.tiling.slots>>; ++slot", "1"),
    Mutation("d_scale of one tile", LAST, "tile <= <<last>>; ++tile", "first"),
    Mutation(
        "d_map of one burst",
        FIRST,
        "stat.d_map += <<part>>",
        "stat.d_map == Real(0) ? part : Real(0)",
    ),
    Mutation(
        "d_map of x without its view",
        FIRST,
        "widen(raw.dr.value[i]) * <<value>>",
        "widen(raw.x.value[i])",
    ),
    Mutation(
        "ReLU not differentiated",
        FIRST,
        "<<relu_backward(widen(raw.dr.value[i]), widen(raw.y.value[i]))>>",
        "widen(raw.dr.value[i])",
    ),
    Mutation(
        "d_max to a slot's last tie", FIRST, "<<a.argmax < b.argmax>> ?", "a.argmax > b.argmax"
    ),
    Mutation("d_max to any channel", FIRST, "if (<<value == max>>)", "true"),
    Mutation(
        "sigmoid not differentiated",
        FIRST,
        "<<sigmoid_backward(total.d_map, map[at])>>",
        "total.d_map",
    ),
    Mutation("NaN not the max", POOL, "{ return <<stat.sum != stat.sum>>", "false"),
    Mutation(
        "pool: d_max to the last tie", POOL, "<<b.channel < a.channel>>", "b.channel > a.channel"
    ),
    Mutation(
        "pool: d_max to a slot's last tie", POOL, "<<value >= stat.value>> ||", "value > stat.value"
    ),
    Mutation("one slot's pixels", REDUCE, "partial < <<end>>; partial += step", "first"),
    Mutation("one chunk's channels", REDUCE, "first < <<chunks>>; first += kBurst", "1"),
    Mutation("a chunk twice", REDUCE, "if (<<first + u < chunks>>) total", "true"),
    Mutation(
        "no place for a vector that begins before its tile",
        REDUCE,
        "j + <<elements_astray<V>(op.shape, op.tiling, partial)>>",
        "0",
    ),
    Mutation("weight not turned around", STENCIL, "<<turned>> ? turned_tap : tap", "false"),
    Mutation("taps of a quad's first part", STENCIL, "part < <<tiling.parts>>; ++part", "1"),
    Mutation("a bias for all groups", STENCIL, "a.bias[<<group>>]", "0"),
    Mutation(
        "weights of the first group",
        STENCIL,
        "load_weight(a.weight + <<group>> * 2 * k * k, k, false",
        "0",
    ),
    Mutation("no d_bias", WEIGHT, "bias += <<d.value[i]>>", "Real(0)"),
    Mutation(
        "d_weight of a row's first quad",
        WEIGHT,
        "<<column + kQuad <= columns>>; column",
        "column < kQuad && column + kQuad <= columns",
    ),
    Mutation(
        "zeros outside the image times inf", WEIGHT, "if (<<bias - bias != Real(0)>>)", "false"
    ),
    Mutation("d_weight of the first tiles", WEIGHT, "index < <<tiles>>;", "blocks"),
    Mutation("d_weight without a partial", WEIGHT, "row < <<rows>>; row", "rows - 1"),
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

    def nan(shape, generator):
        x = torch.randn(shape, generator=generator)
        x[0, -1, 0, -1] = float("nan")
        return x

    every = {"view": True, "residual": True, "relu": True}
    cases = [
        ((2, 150, 2, 3), 3, {"values": ties, "groups": 2}),
        ((1, 16, 5, 7), 7, every),
        ((1, 16, 4, 6), 7, {"channels_last": True, **every}),
        ((1, 1500, 2, 2), 3, {"values": ties}),
        ((1, 4, 40, 60), 1, every),
        ((1, 1500, 4, 4), 3, {}),
        ((1025, 1, 1, 2), 1, {}),
        ((1, 5, 2, 3), 1, {"values": nan}),
    ]
    for shape, k, more in cases:
        check.assert_right(check.Kernels(module), check.random_inputs(shape, k, **more))
    given = check.random_inputs((1, 4, 3, 5), 3)
    given.dy[0, 1, 0, 0] = float("inf")
    d_weight = check.Kernels(module).spatial_gate(given)["d_weight"]
    assert d_weight.isfinite().any(), "NaN in other places"


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
