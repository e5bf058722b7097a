"""squeeze, affine_gate and their gradients: the CUDA kernels on the CPU.

Formulas and tolerances are those of test_squeeze.py and test_affine_gate.py.
"""

import itertools
import math

import pytest
import test_affine_gate as gate
import test_squeeze as squeeze
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, make_x
from cuda_on_cpu import build, check
from planes import LAYOUTS, acc_dtype, assert_same, strided_like

NAN, INF = float("nan"), float("inf")
ALL = squeeze.ALL

# Vectors of 16 and 8 bytes and of one element; that straddle two planes; fewer pixels or channels
# than a vector; planes of many bursts, of a thread each, of several blocks; a batch that leaves
# slots empty.
SHAPES = [
    (1, 1, 1, 1),
    (2, 6, 5, 7),
    (3, 8, 4, 6),
    (2, 16, 3, 3),
    (1, 4, 2, 2),
    (1, 300, 1, 1),
    (2, 12, 14, 14),
    (1, 24, 37, 41),
    (1, 2, 96, 100),
]


@pytest.fixture(scope="module")
def module():
    return build.load_module(build.module_path())


class PlaneKernels(check.Kernels):
    """The ops with the arguments and results of their schemas."""

    def squeeze(self, x, statistics):
        def empty(i, dtype):
            return torch.empty(x.shape[:2] if statistics >> i & 1 else 0, dtype=dtype)

        values = [empty(i, acc_dtype(x)) for i in range(4)]
        places = [empty(i, torch.int64) for i in (2, 3)]
        return self.run("squeeze", x, [x, torch.tensor([statistics])], [*values, *places])

    def squeeze_backward(self, dr, x, *coefficients):
        inputs = [dr, x, *coefficients]
        return self.run("squeeze_backward", x, inputs, [torch.empty_like(x)])[0]

    def affine_gate(self, x, scale, shift, residual, activation):
        inputs = [x, scale, shift, residual]
        relu = activation == "relu"
        return self.run("affine_gate", x, inputs, [torch.empty_like(x)], relu=relu)[0]

    def affine_gate_sums(self, dy, x, y):
        sums = [torch.empty(x.shape[:2], dtype=acc_dtype(x)) for _ in range(2)]
        dr = x.new_empty(0) if y is None else torch.empty_like(x)
        return self.run("affine_gate_sums", x, [dy, x, y], [*sums, dr])


def assert_gate_right(kernels, x):
    for wanted, activation in itertools.product(gate.OPERANDS, ("identity", "relu")):
        given = gate.operands(x, wanted)
        y = kernels.affine_gate(x, *given, activation)
        truth = gate.plain(*gate.as_float64(x, *given), activation)
        assert_accurate("y", y, gate.plain(x, *given, activation), truth, FORWARD)


def assert_sums_right(kernels, x):
    dy = make_x(x.shape, x.dtype)
    y = gate.plain(x, *gate.operands(x), "relu")
    for result in (None, y):
        *ours, dr = kernels.affine_gate_sums(dy, x, result)
        *truths, truth_dr = gate.plain_sums(*gate.as_float64(dy, x, result))
        plain = gate.plain_sums(dy, x, result)
        terms = {"d_scale": truth_dr * x, "d_shift": truth_dr}
        for (name, term), *values in zip(terms.items(), ours, plain, truths, strict=False):
            assert_accurate(name, *values, GRADIENT, term.abs().sum((2, 3)).max())
        assert_same(dr, truth_dr.to(x.dtype) if result is not None else dr[:0])


FINAL_PASSES = [
    ("gate", "offset"),
    squeeze.TERMS,
    ("gate", "slope", "offset"),
    ("gate", "max"),
    ("slope",),
    ("min",),
    (),
]


def assert_final_pass_right(kernels, x, wanted=squeeze.TERMS):
    arguments = squeeze.terms(x, wanted)
    dx = kernels.squeeze_backward(*arguments)
    truth = squeeze.final_pass(*squeeze.as_float64(arguments))
    plain = squeeze.final_pass(*arguments).to(x.dtype)
    assert_accurate("dx", dx, plain, truth, GRADIENT)


def assert_all_right(kernels, x):
    squeeze.assert_right(x, kernels.squeeze)
    assert_gate_right(kernels, x)
    assert_sums_right(kernels, x)
    for wanted in FINAL_PASSES:
        assert_final_pass_right(kernels, x, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_accurate_as_pytorch(module, shape, dtype, layout):
    assert_all_right(PlaneKernels(module), make_x(shape, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pointers_that_are_not_aligned(module, dtype, layout):
    assert_all_right(PlaneKernels(module, skew=1), make_x((1, 8, 4, 6), dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("statistics", range(1, 16))
def test_any_subset(module, statistics, layout):
    """What is asked for has the bits of the whole; what is not is empty."""
    x = make_x((2, 12, 14, 14), torch.float16, layout)
    kernels = PlaneKernels(module)
    bits = (1, 2, 4, 8, 4, 8)
    some, whole = kernels.squeeze(x, statistics), kernels.squeeze(x, ALL)
    for bit, part, full in zip(bits, some, whole, strict=True):
        assert torch.equal(part, full) if statistics & bit else part.shape == (0,)


# Of a thread, in planes that many blocks share: those behind the first are far from its pivot.
SEVERAL_BURSTS = (132, 2, 66, 64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", [0.0, 1e4], ids=["from 0", "level"])
@pytest.mark.parametrize("shape", [(1, 2, 600, 600), (1, 6, 15, 15), SEVERAL_BURSTS], ids=str)
def test_a_large_mean_costs_no_digits(module, shape, first, layout):
    """Pixels around 1e4, in float32; in one case after a quarter that is 0; an outlier in front."""
    x = make_x(shape, torch.float64, layout) + 1e4
    x[:, :, : shape[2] // 4] += first - 1e4
    x[0, 1, 0, 0] = 2e4
    x = x.float()
    mean, var, *_ = PlaneKernels(module).squeeze(x, 3)
    truth = [squeeze.statistic(x.double(), name) for name in ("mean", "var")]
    torch.testing.assert_close(mean.double(), truth[0], rtol=2e-7, atol=0)
    torch.testing.assert_close(var.double(), truth[1], rtol=5e-7, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 16, 7, 7), (1, 2, 40, 50)], ids=str)
def test_ties_go_to_the_first_pixel(module, shape, dtype, layout):
    x = make_x(shape, dtype, layout)
    kernels = PlaneKernels(module)
    squeeze.assert_right(x.copy_(torch.randint(0, 2, shape)), kernels.squeeze)
    squeeze.assert_right(torch.zeros_like(x), kernels.squeeze)
    squeeze.assert_special(torch.full_like(x, -INF), kernels.squeeze)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("values", [(NAN, NAN), (INF, INF), (-INF, -INF), (INF, -INF), (INF, NAN)])
def test_special_values(module, values, dtype, layout):
    """A NaN is the maximum and the minimum, and the first one wins, whoever finds it."""
    x = make_x((2, 8, 25, 21), dtype, layout)
    for c, places in enumerate([(3, 7), (0, 524), (520, 521), (7, 400), (255, 256)]):
        for n, swapped in ((0, values), (1, values[::-1])):
            for place, value in zip(places, swapped, strict=True):
                x[n, c, place // 21, place % 21] = value
    kernels = PlaneKernels(module)
    squeeze.assert_special(x, kernels.squeeze)
    given = gate.operands(x)
    y = kernels.affine_gate(x, *given, "relu")
    truth = gate.plain(x, *given, "relu")
    assert torch.equal(y.isnan(), truth.isnan())
    assert torch.equal(y.isinf(), truth.isinf())
    dr = kernels.affine_gate_sums(x, x, y)[2]
    truth = gate.plain_sums(x, x, y)[2].to(dtype)
    torch.testing.assert_close(dr, truth, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 8, 4, 6)], ids=str)
def test_final_pass_reads_what_is_given_only(module, shape, layout):
    """x only with a slope; places outside of the map are nobody's; one pixel is both extremes."""
    kernels = PlaneKernels(module)
    dr, x, *rest = squeeze.terms(make_x(shape, layout=layout), ("gate", "offset", "max"))
    nan = torch.full_like(x, NAN)
    assert_same(kernels.squeeze_backward(dr, nan, *rest), kernels.squeeze_backward(dr, x, *rest))
    pixels = shape[2] * shape[3]
    at = torch.tensor([-1, pixels, 2**62, -(2**62), 2**32, pixels - 1]).repeat(shape[1])
    at = at[: shape[0] * shape[1]].reshape(shape[:2]).contiguous()
    ones = torch.ones(shape[:2])
    dx = kernels.squeeze_backward(None, x, None, None, None, at, ones, at, ones)
    assert dx.sum() == 2 * (at == pixels - 1).sum()
    assert (dx[..., -1, -1] == 2 * (at == pixels - 1)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 12, 9, 9), (1, 4, 80, 60)], ids=str)
def test_same_bits_in_any_order_of_blocks(module, shape, layout):
    x, dy = make_x(shape, layout=layout), make_x(shape, layout=layout)
    given, final = gate.operands(x), squeeze.terms(x, squeeze.TERMS)

    def run(order, alive):
        kernels = PlaneKernels(module, order=order, alive=alive)
        y = kernels.affine_gate(x, *given, "relu")
        sums = kernels.affine_gate_sums(dy, x, y)
        return [*kernels.squeeze(x, ALL), y, *sums, kernels.squeeze_backward(*final)]

    expected = run("forward", 1)
    for order, alive in [("forward", 3), ("reverse", 2), ("shuffled", 3)]:
        assert_same(run(order, alive), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_batch(module, layout):
    x = make_x((0, 6, 5, 4), layout=layout)
    kernels = PlaneKernels(module)
    assert all(result.shape == (0, 6) for result in kernels.squeeze(x, ALL))
    y = kernels.affine_gate(x, *gate.operands(x), "relu")
    assert [t.shape for t in kernels.affine_gate_sums(y, x, y)] == [(0, 6), (0, 6), x.shape]
    assert kernels.squeeze_backward(*squeeze.terms(x, squeeze.TERMS)).shape == x.shape


# ---- Launches --------------------------------------------------------------------------------

OPS = ["squeeze", "squeeze_backward", "affine_gate", "affine_gate_sums"]
OPS += ["squeeze_excite", "squeeze_excite_backward"]
OPS += ["mix", "mix_sums", "mix_backward", "blend", "blend_backward"]
SIZES = [(8, 64, 112, 112), (8, 256, 56, 56), (8, 512, 28, 28), (8, 1024, 14, 14), (8, 2048, 7, 7)]
EXTREMES = [(1, 1, 1, 1), (65536, 3, 1, 1), (1, 1, 46341, 46341), (2, 2**20, 32, 33), (0, 3, 4, 5)]


def launches(module, op, shape):
    """(dtype, channels_last, kernel, blocks, threads, shared bytes) of every way to run it."""
    kinds = itertools.product(["float32", "float16", "float64"], *[[False, True]] * 3)
    for dtype, channels_last, aligned, flag in kinds:
        for launch in module.geometry(op, dtype, shape, channels_last, 0, aligned, flag):
            yield (dtype, channels_last, aligned, *launch)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", SIZES + EXTREMES, ids=str)
def test_launches_fit_every_gpu(module, op, shape):
    for *_, kernel, blocks, threads, shared_bytes in launches(module, op, shape):
        assert 1 <= threads <= 256, kernel
        assert 0 <= shared_bytes <= 48 * 1024, kernel
        assert 0 <= blocks < 2**31, kernel


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [*SIZES, (2, 1024, 14, 14), (32, 2048, 7, 7)], ids=str)
def test_small_maps_fill_a_gpu_too(module, op, shape):
    """20,000 threads, or as many as have two bursts of vectors."""
    for dtype, channels_last, aligned, kernel, blocks, threads, _ in launches(module, op, shape):
        if not aligned or dtype == "float64" or kernel.startswith(("plane_fold", "excite")):
            continue
        vectors = math.prod(shape) * (4 if dtype == "float32" else 2) // 16
        assert blocks >= 24, (dtype, channels_last, kernel, blocks, threads)
        assert blocks * threads >= min(20_000, vectors // 8), (dtype, channels_last, kernel, blocks)


@pytest.mark.parametrize("shape", [*SIZES[:4], (1, 1152, 7, 7), (1, 64, 112, 112)], ids=str)
def test_squeeze_excite_takes_three_launches(module, shape):
    """With up to kExciteWeights weights a layer; its backward takes four, or five of few images."""
    for channels_last in (False, True):
        geometry = module.geometry(
            "squeeze_excite", "float16", shape, channels_last, 0, True, False
        )
        names = [name for name, *_ in geometry]
        assert names == ["plane_reduce_kernel", "excite_kernel", "gate_kernel"]
        op = "squeeze_excite_backward"
        assert len(module.geometry(op, "float16", shape, channels_last, 0, True, False)) <= 5


# ---- Host side -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host_ops():
    torch.ops.load_library(str(build.host_library()))
    return torch.ops.attn_kernels_on_threads


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 3, 5), (1, 2, 50, 60)], ids=str)
def test_host_side(host_ops, shape, dtype, layout):
    x = make_x(shape, dtype, layout)
    assert_all_right(host_ops, x)
    assert host_ops.affine_gate(x, *gate.operands(x), "relu").stride() == x.stride()
    assert host_ops.squeeze_backward(*squeeze.terms(x, ("gate",))).stride() == x.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_host_side_takes_any_strides(host_ops, layout):
    x = make_x((2, 8, 6, 10), layout=layout)
    scale, shift, residual = gate.operands(x)
    final = squeeze.terms(x, squeeze.TERMS)

    def run(lay_out):
        y = host_ops.affine_gate(lay_out(x), scale, shift, lay_out(residual), "relu")
        sums = host_ops.affine_gate_sums(lay_out(residual), x, lay_out(y))
        dx = host_ops.squeeze_backward(lay_out(final[0]), *final[1:])
        return [*host_ops.squeeze(lay_out(x), ALL), y, *sums, dx]

    strided = run(lambda t: t if t is x else strided_like(t))  # x comes dense
    assert_same(strided, run(lambda t: t))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_host_side_takes_an_empty_batch(host_ops, layout):
    x = make_x((0, 6, 5, 4), layout=layout)
    assert all(result.shape == (0, 6) for result in host_ops.squeeze(x, ALL))
    y = host_ops.affine_gate(x, *gate.operands(x), "relu")
    assert [t.shape for t in host_ops.affine_gate_sums(y, x, y)] == [(0, 6), (0, 6), x.shape]
    assert host_ops.squeeze_backward(*squeeze.terms(x, squeeze.TERMS)).shape == x.shape


REFUSED = [*squeeze.REFUSED, *gate.REFUSED]


@pytest.mark.parametrize(("op", "arguments"), REFUSED, ids=range(len(REFUSED)))
def test_host_side_refuses_what_the_cpu_refuses(host_ops, op, arguments):
    name = str(op).partition(".")[2]
    with pytest.raises(RuntimeError, match="attn_kernels"):
        getattr(host_ops, name)(*arguments)
