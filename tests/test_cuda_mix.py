"""mix, blend and their gradients: the CUDA kernels on the CPU, beside the formulas."""

from dataclasses import dataclass

import pytest
import test_blend
import test_mix
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, make_x
from cuda_on_cpu import build, check
from planes import LAYOUTS, acc_dtype, assert_same, strided_like

from attn_kernels.reference.blend import backward as blend_gradient
from attn_kernels.reference.blend import forward as blended
from attn_kernels.reference.mix import backward, forward, squeeze, sums

NAN, INF = float("nan"), float("inf")
# Single elements; whole vectors; vectors that straddle channels; more channels than threads; planes
# in parts.
SHAPES = [
    (2, 3, 5, 7),
    (2, 8, 4, 6),
    (2, 16, 7, 7),
    (1, 24, 14, 14),
    (1, 300, 1, 1),
    (1, 4, 50, 84),
]
# Tensors, and maps in each.
MAPS = [(1, 1), (3, 1), (4, 1), (1, 3), (2, 2), (1, 5)]


@pytest.fixture(scope="module")
def module():
    return build.load_module(build.module_path())


@dataclass
class MixKernels(check.Kernels):
    """The ops with the arguments and results of their schemas. sliced: each map is given as a
    tensor of its own, also where they lie in one.
    """

    sliced: bool = False

    def mix(self, x, x1, x2, x3, s, residual, activation):
        y = map_like(x, x.shape[1] // s.shape[2])
        inputs = [*self.maps(y, x, x1, x2, x3), s, residual]
        return self.run("mix", y, inputs, [y], relu=activation == "relu")[0]

    def mix_sums(self, dy, x, x1, x2, x3, y, parts):
        map = map_like(x, parts)
        inputs = self.maps(map, x, x1, x2, x3)
        count = parts * sum(t is not None for t in (x, x1, x2, x3))
        d_s = torch.empty(x.shape[0], count, map.shape[1], dtype=acc_dtype(x))
        dr = x.new_empty(0) if y is None else torch.empty_like(map)
        return self.run("mix_sums", map, [*inputs, dy, y], [d_s, dr])

    def mix_squeeze(self, x, x1, x2, x3, parts):
        map = map_like(x, parts)
        inputs = [*self.maps(map, x, x1, x2, x3), None, None]
        mean = torch.empty(map.shape[:2], dtype=acc_dtype(x))
        return self.run("mix_sums", map, inputs, [mean, x.new_empty(0)])[0]

    def mix_backward(self, dr, x, s, offset, tensors, parts):
        map, dx = map_like(x, parts), [torch.empty_like(x) for _ in range(tensors)]
        inputs = [dr, s, offset, torch.tensor([tensors, parts])]
        self.run("mix_backward", map, inputs, [as_bytes_lie(t, map) for t in dx])
        return *dx, *[x.new_empty(0)] * (4 - tensors)

    def maps(self, map, *tensors):
        layout = torch.tensor([tensors[0].shape[1] // map.shape[1], self.sliced])
        return [*(t if t is None else as_bytes_lie(t, map) for t in tensors), layout]

    def blend(self, x, y, a, scale, shift, factor):
        inputs = [x, y, a, scale, shift, torch.tensor([factor], dtype=scale.dtype)]
        return self.run("blend", x, inputs, [torch.empty_like(x)])[0]

    def blend_backward(self, dz, x, y, a, scale, shift, factor):
        inputs = [dz, x, y, a, scale, shift, torch.tensor([factor], dtype=scale.dtype)]
        outputs = [torch.empty_like(t) for t in (x, x, x, scale, scale)]
        return self.run("blend_backward", x, inputs, outputs)


def map_like(x, parts):
    """A map as each of those in x, in x's format."""
    n, c, h, w = x.shape
    format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return torch.empty(n, c // parts, h, w, dtype=x.dtype).contiguous(memory_format=format)


def as_bytes_lie(x, map):
    """What `run` lays out if it has the shape of one map."""
    return x if x.shape == map.shape or map.is_contiguous() else x.permute(0, 2, 3, 1)


def four(tensors):
    return (*tensors, *[None] * (4 - len(tensors)))


def wide(arguments):
    return [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]


def assert_as_formula(name, kernel, formula, arguments, factor, scales=()):
    """Every result; scales: of those that are sums of terms of both signs."""
    found, plain = kernel(*arguments), formula(*arguments)
    truth = formula(*wide(arguments))
    if isinstance(found, torch.Tensor):
        found, plain, truth = [found], [plain], [truth]
    for i, results in enumerate(zip(found, plain, truth, strict=True)):
        scale = scales[i] if i < len(scales) else 0.0
        assert_accurate(f"{name} {i}", *results, factor, scale)
    return found


def mix_operands(shape, dtype, layout, tensors=2, parts=1):
    """The maps, s, and two tensors like one map."""
    n, c, h, w = shape
    x = four([make_x((n, parts * c, h, w), dtype, layout) for _ in range(tensors)])
    s = torch.randn(n, tensors * parts, c, dtype=torch.float64).to(acc_dtype(x[0]))
    return x, s, make_x(shape, dtype, layout), make_x(shape, dtype, layout)


def assert_mix_right(ops, shape, dtype=torch.float32, layout="nchw", tensors=2, parts=1):
    x, s, dy, residual = mix_operands(shape, dtype, layout, tensors, parts)
    for ending in ((None, "identity"), (residual, "relu")):
        (y,) = assert_as_formula("y", ops.mix, forward, (*x, s, *ending), FORWARD)
    largest = max(t.double().abs().max() for t in x[:tensors])
    size = float(dy.double().abs().sum((2, 3)).max() * largest)
    for result in (None, y):
        assert_as_formula("sums", ops.mix_sums, sums, (dy, *x, result, parts), GRADIENT, [size])
    assert_as_formula("mean", ops.mix_squeeze, squeeze, (*x, parts), FORWARD, [1.0])
    offset = torch.randn(shape[:2], dtype=s.dtype)
    for given in ((dy, x[0], s, offset), (dy, x[0], s, None), (None, x[0], None, offset)):
        assert_as_formula("dx", ops.mix_backward, backward, (*given, tensors, parts), GRADIENT)


def blend_operands(shape, dtype=torch.float32, layout="nchw"):
    """dz, x, y, a, scale, shift, factor."""
    maps = [make_x(shape, dtype, layout) for _ in range(4)]
    scale, shift = torch.randn(2, *shape[:2], dtype=torch.float64).to(acc_dtype(maps[0]))
    return *maps, scale, shift, 2.0


def assert_blend_right(ops, given):
    assert_as_formula("z", ops.blend, blended, given[1:], FORWARD)
    dz, x, y, a = (t.double().abs() for t in given[:4])
    size = float((dz * (x + y) * (1 + a)).sum((2, 3)).max()) if x.numel() else 0.0
    scales = [0.0] * 3 + [size] * 2
    assert_as_formula("d", ops.blend_backward, blend_gradient, given, GRADIENT, scales)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_accurate_as_pytorch(module, shape, dtype, layout):
    assert_mix_right(MixKernels(module), shape, dtype, layout)
    assert_blend_right(MixKernels(module), blend_operands(shape, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pointers_that_are_not_aligned(module, dtype, layout):
    kernels = MixKernels(module, skew=1)
    assert_mix_right(kernels, (1, 8, 4, 6), dtype, layout)
    assert_blend_right(kernels, blend_operands((1, 8, 4, 6), dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("tensors", "parts"), MAPS)
@pytest.mark.parametrize("shape", [(2, 4, 7, 7), (2, 3, 5, 2)], ids=str)
def test_any_number_of_maps(module, shape, tensors, parts, layout):
    assert_mix_right(MixKernels(module), shape, torch.float32, layout, tensors, parts)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 7, 7), (3, 8, 2, 4), (2, 6, 1, 1)], ids=str)
def test_slices_are_read_where_they_are(module, shape, dtype, layout):
    x, s, dy, residual = mix_operands(shape, dtype, layout, 1, 3)

    def run(sliced):
        ops = MixKernels(module, sliced=sliced)
        y = ops.mix(*x, s, residual, "relu")
        return [y, *ops.mix_sums(dy, *x, y, 3), ops.mix_squeeze(*x, 3)]

    assert_same(run(True), run(False))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_values(module, value, layout):
    """An element or sum is spoilt exactly where the formula's is; NaN passes a ReLU."""
    ops, shape = MixKernels(module), (2, 8, 7, 7)
    x, s, dy, residual = mix_operands(shape, torch.float32, layout)
    x[1][1, 3, 2, 4] = value
    calls = [(ops.mix, forward, (*x, s, residual, "relu")), (ops.mix_squeeze, squeeze, (*x, 1))]
    y = forward(*x, s, residual, "relu")
    calls.append((ops.mix_sums, sums, (dy, *x, y.contiguous(memory_format=format_of(dy)), 1)))
    for i in range(1, 4):
        given = blend_operands(shape, torch.float32, layout)
        given[i][1, 3, 2, 4] = value
        calls += [(ops.blend, blended, given[1:]), (ops.blend_backward, blend_gradient, given)]
    for kernel, formula, arguments in calls:
        found, truth = kernel(*arguments), formula(*arguments)
        torch.testing.assert_close(found, truth, equal_nan=True, rtol=1e-4, atol=1e-4)


def format_of(x):
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def everything(ops, shape, layout, tensors=3, parts=1):
    x, s, dy, residual = mix_operands(shape, torch.float32, layout, tensors, parts)
    y = ops.mix(*x, s, residual, "relu")
    d_s, dr = ops.mix_sums(dy, *x, y, parts)
    offset, given = ops.mix_squeeze(*x, parts), blend_operands(shape, torch.float32, layout)
    gradients = ops.mix_backward(dr, x[0], s, offset, tensors, parts)
    return [y, d_s, dr, offset, *gradients, ops.blend(*given[1:]), *ops.blend_backward(*given)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 12, 9, 9), (1, 4, 80, 60)], ids=str)
def test_same_bits_in_any_order_of_blocks(module, shape, layout):
    results = []
    for order, alive in [("forward", 1), ("reverse", 2), ("shuffled", 3)]:
        torch.manual_seed(0)
        results.append(everything(MixKernels(module, order=order, alive=alive), shape, layout))
    for found in results[1:]:
        assert_same(found, results[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_batch(module, layout):
    shape = (0, 6, 5, 4)
    found = everything(MixKernels(module), shape, layout)
    expected = [shape, (0, 3, 6), shape, (0, 6), *[shape] * 3, (0,)]
    expected += [*[shape] * 4, (0, 6), (0, 6)]
    assert [t.shape for t in found] == expected


# ---- Host side ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host_ops():
    torch.ops.load_library(str(build.host_library()))
    return torch.ops.attn_kernels_on_threads


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_host_side(host_ops, dtype, layout):
    assert_mix_right(host_ops, (2, 8, 3, 4), dtype, layout, 2, 2)
    given = blend_operands((2, 8, 3, 4), dtype, layout)
    assert_blend_right(host_ops, given)
    x = given[1]
    s = torch.randn(2, 1, 8, dtype=given[4].dtype)
    results = [host_ops.mix(*four([x]), s, None, "identity"), host_ops.blend(*given[1:])]
    results += [host_ops.mix_backward(x, x, s, None, 1, 1)[0], *host_ops.blend_backward(*given)[:3]]
    assert all(y.stride() == x.stride() for y in results)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 8, 4, 4), (3, 4, 1, 1), (2, 6, 1, 9)], ids=str)
def test_host_side_reads_slices_where_they_are(host_ops, shape, layout):
    x, s, *_ = mix_operands(shape, torch.float32, layout, 1, 3)
    slices = four(x[0].chunk(3, 1))
    found, count = test_mix.copies(lambda: host_ops.mix(*slices, s, None, "identity"))
    assert count == 0
    assert_same(found, host_ops.mix(*x, s, None, "identity"))
    assert_same(host_ops.mix_squeeze(*slices, 1), host_ops.mix_squeeze(*x, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_host_side_takes_any_strides(host_ops, layout):
    shape = (2, 8, 6, 10)
    x, s, dy, residual = mix_operands(shape, torch.float32, layout)
    given = blend_operands(shape, torch.float32, layout)
    offset = torch.randn(2, 8)

    def run(lay_out):
        # x comes dense: it says in which format the results are.
        maps = x[0], lay_out(x[1]), None, None
        y = host_ops.mix(*maps, s, lay_out(residual), "relu")
        gradients = host_ops.mix_sums(lay_out(dy), *maps, lay_out(y), 1)
        dx = host_ops.mix_backward(lay_out(dy), x[0], s, offset, 2, 1)
        dz, of_x, *others = given[:4]
        others = [*map(lay_out, others), *given[4:]]
        blends = host_ops.blend(of_x, *others), *host_ops.blend_backward(lay_out(dz), of_x, *others)
        return [y, *gradients, host_ops.mix_squeeze(*maps, 1), *dx, *blends]

    expected = run(lambda t: t)
    for lay_out in (strided_like, lambda t: t.transpose(2, 3).contiguous().transpose(2, 3)):
        assert_same(run(lay_out), expected)
    expanded = x[0][:1].expand(2, -1, -1, -1), *x[1:]
    dense = expanded[0].contiguous(memory_format=format_of(x[0])), *x[1:]
    assert_same(*(host_ops.mix(*maps, s, None, "relu") for maps in (expanded, dense)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_host_side_takes_an_empty_batch(host_ops, layout):
    found = everything(host_ops, (0, 6, 5, 4), layout)
    assert all(t.numel() == 0 for t in found)


REFUSED = [*test_mix.REFUSED, *test_blend.REFUSED]


@pytest.mark.parametrize(("op", "arguments"), REFUSED, ids=range(len(REFUSED)))
def test_host_side_refuses_what_the_cpu_refuses(host_ops, op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        getattr(host_ops, str(op).partition(".")[2])(*arguments)
