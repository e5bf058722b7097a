"""The checks of the CUDA kernels can fail: each barrier and term is taken out, and is missed."""

import ctypes
import re

import pytest
import test_cuda_broadcast as cuda_broadcast
import test_cuda_mix as cuda_mix
import test_cuda_planes as cuda_planes
import test_cuda_squeeze_excite as cuda_excite
import torch
from contract import make_x
from cuda_on_cpu import build, check
from mutants.mutation import Mutation, with_switches
from planes import LAYOUTS


def meetings():
    """Every barrier in csrc/cuda, as "file:line"."""
    for source in build.cuda_sources():
        for number, line in enumerate(source.read_text().splitlines(), 1):
            code = line.split("//")[0]
            if "__syncthreads()" in code:
                yield f"{source.name}:{number}"


def test_the_kernels_meet_in_no_other_way():
    """Shuffles, fences and atomics would have to be taken out in turn as well."""
    others = r"__shfl|__syncwarp|__threadfence|\batomic|\basm\b|__syncthreads_|volatile"
    for source in (build.CSRC / "cuda").glob("*.*h"):
        code = re.sub(r"//.*", "", source.read_text())
        assert not re.search(others, code), source.name


@pytest.mark.parametrize("meeting", list(meetings()))
def test_a_missing_barrier_is_a_race(meeting):
    done = build.run_sanitized("thread", without=meeting)
    assert done.returncode == 66
    assert "ThreadSanitizer: data race" in done.stderr


def edited(file, source):
    source = with_switches(ALL_MUTATIONS, file, source)
    if file == "cuda/device.cuh":  # which all kernels include
        source = source.replace("#pragma once\n", f"#pragma once\n{SWITCH}", 1)
    return source


NAN = float("nan")
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
        "has_shift ? <<shift(u, i)>> : Real(0)",
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
PLANES, SQUEEZE = "cuda/plane_reduce.cuh", "cuda/squeeze.cuh"
SUMS, FINAL, EXCITE = "cuda/gate_sums.cuh", "cuda/squeeze_gradient.cuh", "cuda/excite.cuh"
COMBINED, DELTA = "b.deviations + b.count * <<apart>>)", "delta * delta * a.count"
PLANE_MUTATIONS = [
    Mutation("one helper of a plane", PLANES, "i < <<inputs>>; ++i) total", "1"),
    Mutation("a helper's first alone", PLANES, "i < <<inputs>>; i += helpers", "0"),
    Mutation("one slot's parts", PLANES, "part < <<parts>>; part += kFoldSlots", "1"),
    Mutation("all of a plane's last vector", PLANES, "begun & (<<k == count - 1>> ?", "false"),
    Mutation("all of a plane's first vector", PLANES, "= <<pixel < 0 && k == 0>> ?", "false"),
    Mutation("what sums round off", SQUEEZE, "low == low ? sum + <<low>> : sum", "-low * 1000"),
    Mutation("no distance between means", SQUEEZE, f"<<{DELTA}>> *", "Real(0)"),
    Mutation("pivots for means", SQUEEZE, "apart + (<<b.deviations / b.count>> -", "Real(0)"),
    Mutation("deviations from two pivots", SQUEEZE, COMBINED, "Real(0)"),
    Mutation(
        "squares about the pivot",
        SQUEEZE,
        "<<of.deviations * (of.deviations / count)>>;",
        "Real(0)",
    ),
    Mutation("a pivot far away", SQUEEZE, "<<of.part * first_share_>> : of.pivot", "Real(1e4)"),
    Mutation("the last part's tie", SQUEEZE, "tie && <<b.at < a.at>>", "b.at > a.at"),
    Mutation("the last vector's tie", SQUEEZE, "if (<<largest > max>>)", "largest >= max"),
    Mutation("the last vector's tie below", SQUEEZE, "(<<smallest < min>>)", "smallest <= min"),
    Mutation("NaN is no extreme", SQUEEZE, "any_nan |= <<of.sum != of.sum>>;", "false"),
    Mutation("any element of a vector", SQUEEZE, "<<if_max(at_i, value, true, false)>>)", "true"),
    Mutation("no x in d_scale", SUMS, "gradient * <<widen(raw[u].x.value[i])>>", "Real(1)"),
    Mutation("d_shift is nothing", SUMS, "of.shift += <<gradient>>;", "Real(0)"),
    Mutation(
        "ReLU lets all through",
        SUMS,
        "<<relu_backward(widen(dr.value[i]), y)>>",
        "Real(widen(dr.value[i]))",
    ),
    Mutation("dx without offset", FINAL, "dx[i] = <<offset(u, i)>>;", "Real(0)"),
    Mutation("dx without slope", FINAL, "x[u].value[i])), <<slope(u, i)>>, dx", "Real(0)"),
    Mutation("dx without scale", FINAL, "dr[u].value[i])), <<scale(u, i)>>, dx", "Real(0)"),
    Mutation("no gradient of extremes", FINAL, "value(a.offset) + <<gradient>>;", "Real(0)"),
    Mutation("extremes without offset", FINAL, "<<value(a.offset)>> + gradient;", "Real(0)"),
    Mutation("one of two extremes", FINAL, "(<<min_at == max_at>> ? value", "false"),
    Mutation("extremes of a row's first", FINAL, "<<(channel - stream.first_channel)>> % a", "0"),
    Mutation("one lane's products", EXCITE, "i < <<lanes>>; ++i", "1"),
    Mutation("no first bias", EXCITE, "sum + <<a.b1[unit]>> : sum", "Real(0)"),
    Mutation("no second bias", EXCITE, "sum + <<a.b2[unit]>> : sum", "Real(0)"),
    Mutation("one part's mean", EXCITE, "p < <<a.parts.count>>; ++p", "1"),
    Mutation("one slot's d_hidden", EXCITE, "s < <<kSlots>>; ++s", "1"),
    Mutation("offset of every pixel", EXCITE, "sum * <<a.share>>;", "Real(1)"),
    Mutation("one image's weights", EXCITE, "n < <<a.n>>; ++n", "1"),
]
BOX, BOX_SUMS, BROADCAST = "cuda/box.cuh", "cuda/box_sums.cuh", "cuda/broadcast_gate.cuh"
SELF = "cuda/self_gate.cuh"
BROADCAST_MUTATIONS = [
    Mutation("no carry to the next row", BOX, "carry = <<at[d] >= size[d] - step>> ?", "false"),
    Mutation("a vector in one row", BOX, "V > 1 && <<size[2] - place.at[2] < V>>", "false"),
    Mutation("stores in one row", BOX, "whole = <<size[2] - place.at[2] >= V>> &&", "true"),
    Mutation("one helper of a sum", BOX_SUMS, "helper < <<sum.helpers>>; ++helper", "1"),
    Mutation("all parts in one place", BOX_SUMS, "part += <<tile.tile[d]>> * sum.part", "0"),
    Mutation("one of two loops", BOX_SUMS, "o < <<outer>>; ++o", "1"),
    Mutation("the parts' share", BOX_SUMS, "to[plane] = total * <<share>>;", "Real(1)"),
    Mutation("no second factor", BROADCAST, ": a.value[i] * <<b.value[i]>>;", "Real(1)"),
    Mutation("no skip", BROADCAST, "(<<a.skip>> + gate", "Real(0)"),
    Mutation("no residual here", BROADCAST, "y[i] += <<widen(added.value[i])>>;", "Real(0)"),
    Mutation("terms without share", BROADCAST, "y[i] += <<term.share>> *", "Real(1)"),
    Mutation("gate not differentiated", BROADCAST, "from[0].value[i]) * <<slope>>;", "Real(1)"),
    Mutation("no weight", BROADCAST, "to[1][i] *= <<factor.value[i]>>;", "Real(1)"),
    Mutation(
        "ReLU passes all",
        BROADCAST,
        "<<relu_backward(Real(widen(maps[1].value[i])), result)>>",
        "widen(maps[1].value[i])",
    ),
    Mutation("no center", SELF, "widen(x.value[i]) - <<center[i]>>;", "Real(0)"),
    Mutation("no slope of the logit", SELF, "d_logit * <<values.slope[i]>> +", "Real(0)"),
    Mutation("no offset", SELF, "slope[i] * x + <<offset[i]>>);", "Real(0)"),
]


MIX, BLEND = "cuda/mix.cuh", "cuda/blend.cuh"
MIX_MUTATIONS = [
    Mutation("one factor for all maps", MIX, "s.begin(rows + int64_t{m} * <<a.shape.c>>", "0"),
    Mutation("a mix without residual", MIX, "+= <<widen(residual[u].value[i])>>", "Real(0)"),
    Mutation("a map's first part", MIX, "+ <<part>> * maps.part", "0"),
    Mutation("images of dense maps", MIX, "image * <<of.image>>", "0"),
    Mutation("pixels of dense maps", MIX, "slots * <<of.pixel>> / V", "0"),
    Mutation("an odd map twice", MIX, "(<<has_second>> ? total", "true"),
    Mutation("the last maps' mean", MIX, "mean[plane] = <<first > 0>> ?", "false"),
    Mutation("sums without dr", MIX, "= <<has_dr>> ? Real", "false"),
    Mutation("dx of a map without dr", MIX, "value[i])), <<s(u, i)>>, dx[i]", "Real(0)"),
    Mutation("a mix's dx without offset", MIX, "dx[i] = <<offset(u, i)>>;", "Real(0)"),
    Mutation("one channel's scale", BLEND, "scale_[i] = op.scale[visit.plane + <<i>>]", "0"),
    Mutation("da without scale", BLEND, "d.logit * <<scale_[of]>>;", "Real(1)"),
    Mutation("d_scale without a", BLEND, "d.logit * <<a>>;", "Real(1)"),
    Mutation("no shift in the weight", BLEND, "scale(u, i), <<shift(u, i)>>);", "Real(0)"),
    Mutation("dx for dy", BLEND, "dy[i] = <<d.y>>;", "d.x"),
]


ALL_MUTATIONS = MUTATIONS + PLANE_MUTATIONS + BROADCAST_MUTATIONS + MIX_MUTATIONS


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


def check_bursts(module):
    """Threads with two bursts of channels: many images, and many channels of few pixels."""
    check.assert_right(check.Kernels(module), check.random_inputs((1025, 700, 1, 2), 1))


def check_planes(module):
    """The same of test_cuda_planes.py and test_cuda_squeeze_excite.py."""
    kernels, generator = cuda_planes.PlaneKernels(module), torch.Generator().manual_seed(0)
    for layout in LAYOUTS:
        for shape in [(1, 4, 50, 84), (2, 12, 5, 7), (2, 8, 2, 2)]:
            cuda_planes.assert_all_right(kernels, make_x(shape, layout=layout))
            ties = make_x(shape, layout=layout)
            ties.copy_(torch.randint(0, 2, shape, generator=generator))
            cuda_planes.squeeze.assert_right(ties, kernels.squeeze)
        cuda_planes.test_a_large_mean_costs_no_digits(module, (1, 6, 15, 15), 0.0, layout)
        # Rows of four channels in two tiles: the second tile's block after the first's is done.
        in_order = cuda_planes.PlaneKernels(module, order="reverse", alive=1)
        cuda_planes.assert_final_pass_right(in_order, make_x((1, 4, 9, 9), layout=layout))
        cuda_planes.test_special_values(module, (NAN, NAN), torch.float32, layout)
        cuda_planes.test_final_pass_reads_what_is_given_only(module, (2, 6, 5, 7), layout)
        for shape in [(1, 2, 50, 84), (3, 40, 3, 3)]:
            given = cuda_excite.plain.operands(shape, layout=layout)
            cuda_excite.assert_right(cuda_excite.ExciteKernels(module), given, ("relu", "sigmoid"))


def check_broadcast(module):
    """The same of test_cuda_broadcast.py: vectors of two rows; sums in parts, and of two loops."""
    ops = cuda_broadcast.BroadcastKernels(module)
    for layout in LAYOUTS:
        cuda_broadcast.assert_all_right(ops, make_x((2, 12, 5, 7), layout=layout))
        for mask in (cuda_broadcast.CHANNELS, 2):
            x = make_x((1, 4, 20, 30), layout=layout)
            cuda_broadcast.assert_gate_right(ops, x, (mask, None))
        cuda_broadcast.assert_squeeze_right(ops, x)


def check_plane_bursts(module):
    """The same of pixels: more planes than it takes to fill a GPU."""
    for layout in LAYOUTS:
        cuda_planes.test_a_large_mean_costs_no_digits(
            module, cuda_planes.SEVERAL_BURSTS, 0.0, layout
        )


def check_mix(module):
    """The same of test_cuda_mix.py."""
    kernels = cuda_mix.MixKernels(module)
    for layout in LAYOUTS:
        for shape, *maps in [((2, 8, 5, 7), 3, 1), ((2, 4, 2, 6), 1, 3)]:
            cuda_mix.assert_mix_right(kernels, shape, torch.float32, layout, *maps)
        for shape in [(2, 8, 5, 7), (1, 4, 50, 84)]:
            cuda_mix.assert_blend_right(kernels, cuda_mix.blend_operands(shape, layout=layout))


def test_without_mutation_all_is_right(mutant):
    module, switch = mutant
    switch.value = 0
    check_all(module)
    check_planes(module)
    check_broadcast(module)
    check_mix(module)


@pytest.mark.parametrize(
    "number", range(1, len(MUTATIONS) + 1), ids=lambda n: MUTATIONS[n - 1].name
)
def test_a_missing_term_is_an_error(mutant, number):
    module, switch = mutant
    switch.value = number
    seen_by = check_bursts if MUTATIONS[number - 1].name == "d_map of one burst" else check_all
    with pytest.raises(AssertionError, match=r"error|other places"):
        seen_by(module)


@pytest.mark.parametrize(
    "number", range(1, len(PLANE_MUTATIONS) + 1), ids=lambda n: PLANE_MUTATIONS[n - 1].name
)
def test_a_missing_term_of_a_plane_is_an_error(mutant, number):
    module, switch = mutant
    switch.value = len(MUTATIONS) + number
    torch.manual_seed(0)
    bursts = PLANE_MUTATIONS[number - 1].name == "squares about the pivot"
    with pytest.raises(AssertionError):
        (check_plane_bursts if bursts else check_planes)(module)


@pytest.mark.parametrize(
    "number",
    range(len(MUTATIONS + PLANE_MUTATIONS) + 1, len(ALL_MUTATIONS) + 1),
    ids=lambda n: ALL_MUTATIONS[n - 1].name,
)
def test_a_missing_term_of_a_broadcast_or_a_mix_is_an_error(mutant, number):
    module, switch = mutant
    switch.value = number
    torch.manual_seed(0)
    seen_by = check_mix if ALL_MUTATIONS[number - 1] in MIX_MUTATIONS else check_broadcast
    with pytest.raises(AssertionError):
        seen_by(module)
