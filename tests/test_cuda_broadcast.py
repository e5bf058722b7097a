"""broadcast_gate, broadcast_squeeze, self_gate and their gradients: the CUDA kernels on the CPU.

Beside the formulas of attn_kernels/reference.
"""

import itertools
import sys

import pytest
import test_cuda_planes as planes
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, make_x
from cuda_on_cpu import build, check
from planes import LAYOUTS, acc_dtype, assert_same, coefficients, strided_like

import attn_kernels  # noqa: F401

# The package has functions of the same names.
gate, squeeze, self_gate = (
    sys.modules[f"attn_kernels.reference.{name}"]
    for name in ("broadcast_gate", "broadcast_squeeze", "self_gate")
)

NAN, INF = float("nan"), float("inf")
EVERY = 15  # statistic
CHANNELS, ROWS, COLUMNS, PIXELS = 1, 3, 5, 6  # what an operand keeps: 1 C, 2 H, 4 W
STATISTICS = (CHANNELS, PIXELS, ROWS, COLUMNS)
GATES = ("identity", "sigmoid", "hardsigmoid")
FORMS = list(itertools.product(("mul", "add"), GATES, (False, True)))
# Vectors of 16 bytes and of one element, in whole rows, planes or images; fewer pixels than a
# vector; tiles of an image, of a plane, of a row.
SHAPES = [
    (1, 1, 1, 1),
    (2, 6, 5, 7),
    (3, 8, 4, 6),
    (2, 16, 7, 7),
    (1, 36, 14, 14),
    (1, 300, 1, 1),
    (1, 4, 50, 84),
    (1, 2, 3, 1100),
]


@pytest.fixture(scope="module")
def module():
    return build.load_module(build.module_path())


@pytest.fixture(scope="module")
def host_ops():
    torch.ops.load_library(str(build.host_library()))
    return torch.ops.attn_kernels_on_threads


def kept(x, mask):
    """Sizes of what keeps some of x's."""
    sizes = (size if mask >> i & 1 else 1 for i, size in enumerate(x.shape[1:]))
    return (x.shape[0], *sizes)


def mask_of(t):
    """A mask that gives these sizes."""
    return 0 if t is None else sum((size > 1) << i for i, size in enumerate(t.shape[1:]))


class BroadcastKernels(check.Kernels):
    """The ops with the arguments and results of their schemas."""

    def called(self, op, x, inputs, sizes, relu=False):
        """Operands and statistics travel in x's memory format, as maps do."""
        last = not x.is_contiguous()

        def move(t):
            if not last or t is None or t.dim() != 4:
                return t
            is_map = t.shape == x.shape and t.dtype == x.dtype
            return t if is_map else t.permute(0, 2, 3, 1)

        outputs = []
        for size, dtype in sizes:
            format = torch.channels_last if last and len(size) == 4 else torch.contiguous_format
            outputs.append(torch.empty(size, dtype=dtype, memory_format=format))
        self.run(op, x, [move(t) for t in inputs], [move(t) for t in outputs], relu=relu)
        return outputs

    @staticmethod
    def kinds(a, b, combine, gate, skip=False):
        numbers = [mask_of(a), mask_of(b), combine == "add", GATES.index(gate), skip]
        return torch.tensor([int(number) for number in numbers])

    def broadcast_gate(self, x, a, b, residual, combine, gate, skip, activation):
        inputs = [x, a, b, residual, self.kinds(a, b, combine, gate, skip)]
        relu = activation == "relu"
        return self.called("broadcast_gate", x, inputs, [(x.shape, x.dtype)], relu)[0]

    def broadcast_gate_sums(self, dy, x, a, b, y, combine, gate):
        inputs = [dy, x, a, b, y, self.kinds(a, b, combine, gate)]
        sizes = [a.shape, (0,) if b is None else b.shape]
        results = [(size, acc_dtype(x)) for size in sizes]
        results.append(((0,) if y is None else x.shape, x.dtype))
        return self.called("broadcast_gate_sums", x, inputs, results)

    def broadcast_squeeze(self, x, weight, statistics):
        sizes = [
            kept(x, mask) if statistics >> i & 1 else (0,) for i, mask in enumerate(STATISTICS)
        ]
        inputs = [x, weight, torch.tensor([statistics])]
        return self.called("broadcast_squeeze", x, inputs, [(s, acc_dtype(x)) for s in sizes])

    def broadcast_squeeze_backward(self, dr, x, a, b, weight, *rest):
        *gradients, combine, gate, skip = rest
        inputs = [dr, x, a, b, weight, *gradients, self.kinds(a, b, combine, gate, skip)]
        weights = (0,) if weight is None else weight.shape
        results = [(x.shape, x.dtype), (weights, acc_dtype(x))]
        return self.called("broadcast_squeeze_backward", x, inputs, results)

    def self_gate(self, x, *rest):
        inputs = [x, *rest[:-1], torch.tensor(rest[-1:])]
        return self.called("self_gate", x, inputs, [(x.shape, x.dtype)])[0]

    def self_gate_sums(self, dy, x, *rest):
        inputs = [dy, x, *rest[:-1], torch.tensor(rest[-1:])]
        return self.called("self_gate_sums", x, inputs, [(x.shape[:2], acc_dtype(x))] * 3)

    def self_gate_backward(self, dy, x, *rest):
        inputs = [dy, x, *rest[:-1], torch.tensor(rest[-1:])]
        return self.called("self_gate_backward", x, inputs, [(x.shape, x.dtype)])[0]


# ---- What is right ---------------------------------------------------------------------------


def operand(x, mask):
    t = torch.randn(kept(x, mask), dtype=torch.float64).to(acc_dtype(x))
    last = not x.is_contiguous()
    return t.contiguous(memory_format=torch.channels_last) if last else t


def wide(arguments):
    return [t.double() if torch.is_tensor(t) else t for t in arguments]


def assert_right(name, ours, formula, arguments, kind, sizes=()):
    """Each result beside the formula's; sizes: of the terms of what is summed."""

    def listed(results):
        return [results] if torch.is_tensor(results) else results

    results = [listed(ours), *(listed(formula(*given)) for given in (arguments, wide(arguments)))]
    sizes = (*sizes, *[0.0] * len(results[0]))
    for i, (*found, size) in enumerate(zip(*results, sizes, strict=False)):
        assert_accurate(f"{name} {i}", *found, kind, float(size))


def assert_gate_right(ops, x, masks, form=("mul", "sigmoid", True)):
    """With a residual and a ReLU, and without; then the sums."""
    a, b = (None if mask is None else operand(x, mask) for mask in masks)
    residual, dy = make_x(x.shape, x.dtype), make_x(x.shape, x.dtype)
    size = (dy.double() * x.double()).abs().sum() * (1 if b is None else b.abs().max())
    for arguments in ((x, a, b, None, *form, "identity"), (x, a, b, residual, *form, "relu")):
        y = ops.broadcast_gate(*arguments)
        assert_right("y", y, gate.forward, arguments, FORWARD)
    for result in (None, y):
        arguments = (dy, x, a, b, result, *form[:2])
        sums = ops.broadcast_gate_sums(*arguments)
        assert_right("sums", sums, gate.sums, arguments, GRADIENT, (size, size))
    assert_same(sums[2], gate.sums(*arguments)[2])


def assert_squeeze_right(ops, x, form=("add", "sigmoid", False)):
    weight, dr = operand(x, CHANNELS), make_x(x.shape, x.dtype)
    arguments = (x, weight, EVERY)
    size = (x.double() * weight.double()).abs().sum(1).max()
    found = ops.broadcast_squeeze(*arguments)
    # The means' terms are of size 1.
    assert_right("statistics", found, squeeze.forward, arguments, FORWARD, (1, size, 1, 1))
    d_mean, d_sum, d_rows, d_columns = (operand(x, mask) for mask in STATISTICS)
    size = (x.double() * d_sum.double()).abs().sum((2, 3)).max()
    a, b = operand(x, ROWS), operand(x, COLUMNS)
    for arguments in (
        (dr, x, a, b, weight, d_mean, d_sum, d_rows, d_columns, *form),
        (dr, x, a, None, None, None, None, d_rows, None, *form),
        (None, x, None, None, weight, None, d_sum, None, None, *form),
    ):
        found = ops.broadcast_squeeze_backward(*arguments)
        assert_right("dx", found, squeeze.backward, arguments, GRADIENT, (0, size))


def groups_of(x):
    return [1, *(g for g in (2, 3) if x.shape[1] % g == 0)]


def assert_self_gate_right(ops, x, groups, subset=(True,) * 5):
    given = coefficients(x, 6)
    center, p2, p1, slope, offset = (
        t if wanted else None for t, wanted in zip(given, subset, strict=False)
    )
    of = (center, p2, p1, given[5])
    dy = make_x(x.shape, x.dtype)
    size = ((x.double().abs() + 3) ** 3 * dy.double().abs()).sum((2, 3)).max()
    assert_right("y", ops.self_gate(x, *of, groups), self_gate.forward, (x, *of, groups), FORWARD)
    arguments = (dy, x, *of, groups)
    sums = ops.self_gate_sums(*arguments)
    assert_right("sums", sums, self_gate.sums, arguments, GRADIENT, (size,) * 3)
    arguments = (dy, x, *of, slope, offset, groups)
    assert_right(
        "dx", ops.self_gate_backward(*arguments), self_gate.backward, arguments, GRADIENT, (0,)
    )


def assert_all_right(ops, x):
    for groups in groups_of(x):
        assert_self_gate_right(ops, x, groups)
    for masks in ((CHANNELS, PIXELS), (ROWS, COLUMNS), (PIXELS, None)):
        assert_gate_right(ops, x, masks)
    assert_squeeze_right(ops, x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_accurate_as_pytorch(module, shape, dtype, layout):
    assert_all_right(BroadcastKernels(module), make_x(shape, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pointers_that_are_not_aligned(module, dtype, layout):
    assert_all_right(BroadcastKernels(module, skew=1), make_x((1, 8, 4, 6), dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", range(8))
def test_factors_that_keep_anything(module, mask, layout):
    """Of channels, rows and columns; in every form; sums in one part and in several."""
    ops = BroadcastKernels(module)
    forms = itertools.cycle(FORMS)
    for other in (None, *range(8)):
        assert_gate_right(ops, make_x((2, 4, 6, 10), layout=layout), (mask, other), next(forms))
    assert_gate_right(ops, make_x((1, 8, 26, 40), layout=layout), (mask, mask), next(forms))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coefficients_that_are_absent(module, layout):
    x = make_x((2, 6, 5, 7), layout=layout)
    for subset in itertools.product((False, True), repeat=5):
        assert_self_gate_right(BroadcastKernels(module), x, 3, subset)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("statistics", range(1, 16))
def test_any_subset(module, statistics, layout):
    """What is not asked for is empty."""
    x = make_x((2, 12, 9, 10), torch.float16, layout)
    weight = operand(x, CHANNELS) if statistics & 2 else None
    found = BroadcastKernels(module).broadcast_squeeze(x, weight, statistics)
    assert_right("some", found, squeeze.forward, (x, weight, statistics), FORWARD, (1, 9, 1, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_values(module, value, layout):
    """What they spoil is what they spoil in the formula; a NaN of y passes its gradient."""
    x = make_x((2, 6, 5, 7), layout=layout)
    dy, a, b = make_x(x.shape), operand(x, CHANNELS), operand(x, PIXELS)
    x[0, 1, 2, 3], b.view(-1)[3] = value, value
    ops = BroadcastKernels(module)

    def assert_spoilt_alike(ours, truth):
        for found, expected in zip(ours, truth, strict=True):
            assert torch.equal(found.isnan(), expected.isnan())
            assert torch.equal(found.isinf(), expected.isinf())

    for combine, kind, skip in FORMS:
        form = (combine, kind, skip)
        arguments = (x, a, b, dy, *form, "relu")
        y = gate.forward(*arguments)
        assert_spoilt_alike([ops.broadcast_gate(*arguments)], [y])
        arguments = (dy, x, a, b, y, combine, kind)
        assert_spoilt_alike(ops.broadcast_gate_sums(*arguments), gate.sums(*arguments))
    of = (*coefficients(x, 4), 2)
    y = self_gate.forward(x, *of)
    assert torch.equal(ops.self_gate(x, *of).isnan(), y.isnan())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [8, 30])
def test_shuffle(module, channels, layout):
    """Any number of groups, exactly."""
    x = make_x((2, channels, 3, 4), torch.float16, layout)
    p0 = torch.full(x.shape[:2], 100.0)
    for groups in (g for g in range(1, channels + 1) if channels % g == 0):
        y = BroadcastKernels(module).self_gate(x, None, None, None, p0, groups)
        assert_same(y, self_gate.shuffled(x, groups).to(y.dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 12, 9, 9), (1, 4, 80, 60)], ids=str)
def test_same_bits_in_any_order_of_blocks(module, shape, layout):
    x, dy = make_x(shape, layout=layout), make_x(shape, layout=layout)
    a, b, weight, rows = (operand(x, mask) for mask in (CHANNELS, PIXELS, CHANNELS, ROWS))
    of = (*coefficients(x, 4), 2)
    form = ("mul", "sigmoid")

    def run(order, alive):
        ops = BroadcastKernels(module, order=order, alive=alive)
        y = ops.broadcast_gate(x, a, b, dy, *form, True, "relu")
        back = (dy, x, rows, None, weight, None, b, rows, None, *form, True)
        return [
            *ops.broadcast_gate_sums(dy, x, a, b, y, *form),
            *ops.broadcast_squeeze(x, weight, EVERY),
            *ops.broadcast_squeeze_backward(*back),
            ops.self_gate(x, *of),
            *ops.self_gate_sums(dy, x, *of),
        ]

    expected = run("forward", 1)
    for order, alive in [("forward", 3), ("reverse", 2), ("shuffled", 3)]:
        assert_same(run(order, alive), expected)


# ---- Launches --------------------------------------------------------------------------------

OPS = ["broadcast_gate", "broadcast_gate_sums", "broadcast_squeeze"]
OPS += ["self_gate", "self_gate_sums", "self_gate_backward"]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", planes.SIZES + planes.EXTREMES, ids=str)
def test_launches_fit_every_gpu(module, op, shape):
    assert list(planes.launches(module, op, shape)) or shape[0] == 0
    planes.test_launches_fit_every_gpu(module, op, shape)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", planes.SIZES, ids=str)
def test_small_maps_fill_a_gpu_too(module, op, shape):
    planes.test_small_maps_fill_a_gpu_too(module, op, shape)


# ---- Host side -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 3, 4), (1, 6, 50, 61), (0, 4, 3, 2)], ids=str)
def test_host_side(host_ops, shape, dtype, layout):
    x = make_x(shape, dtype, layout)
    if shape[0] > 0:
        return assert_all_right(host_ops, x)
    a, weight, of = operand(x, ROWS), operand(x, CHANNELS), (*coefficients(x, 4), 2)
    form = ("mul", "sigmoid")
    y = host_ops.broadcast_gate(x, a, None, x, *form, True, "relu")
    sums = host_ops.broadcast_gate_sums(y, x, a, None, y, *form)
    assert [t.shape for t in (y, *sums)] == [x.shape, a.shape, (0,), x.shape]
    found = host_ops.broadcast_squeeze(x, weight, EVERY)
    assert [t.shape for t in found] == [kept(x, mask) for mask in STATISTICS]
    assert host_ops.self_gate(x, *of).shape == x.shape
    assert [t.shape for t in host_ops.self_gate_sums(y, x, *of)] == [(0, 4)] * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_host_side_takes_any_strides(host_ops, layout):
    """Of maps and of what broadcasts; results are laid out as x is."""
    x = make_x((2, 8, 6, 10), layout=layout)
    dy, a, b, weight = make_x(x.shape), *(operand(x, mask) for mask in (ROWS, PIXELS, CHANNELS))
    of = (*coefficients(x, 4), 2)
    form = ("mul", "sigmoid")

    def run(lay_out):
        y = host_ops.broadcast_gate(
            lay_out(x), lay_out(a), lay_out(b), lay_out(dy), *form, True, "relu"
        )
        back = (lay_out(dy), x, lay_out(a), None, lay_out(weight), None, lay_out(b), lay_out(a))
        return [
            y,
            *host_ops.broadcast_gate_sums(lay_out(dy), x, lay_out(a), b, lay_out(y), *form),
            *host_ops.broadcast_squeeze_backward(*back, None, *form, True),
            host_ops.self_gate_backward(lay_out(dy), x, *of[:-1], None, None, 2),
        ]

    found = run(lambda t: t)
    assert found[0].stride() == found[3].stride() == found[-1].stride() == x.stride()
    assert_same(run(lambda t: t if t is x else strided_like(t)), found)


X = torch.randn(2, 4, 3, 5)
COEFFICIENT, FACTOR = torch.randn(2, 4), torch.randn(2, 4, 1, 1)
REFUSED = [
    ("broadcast_gate", (X, FACTOR[:1], None, None, "mul", "sigmoid", False, "identity")),
    ("broadcast_gate", (X, FACTOR.double(), None, None, "mul", "sigmoid", False, "identity")),
    ("broadcast_gate", (X, FACTOR, FACTOR[:, :3], None, "mul", "sigmoid", False, "identity")),
    ("broadcast_gate", (X, FACTOR, None, X[:1], "mul", "sigmoid", False, "identity")),
    ("broadcast_gate", (X, FACTOR, None, None, "sub", "sigmoid", False, "identity")),
    ("broadcast_gate", (X, FACTOR, None, None, "mul", "tanh", False, "identity")),
    ("broadcast_gate", (X, FACTOR, None, None, "mul", "sigmoid", False, "gelu")),
    ("broadcast_gate_sums", (X[:1], X, FACTOR, None, None, "mul", "sigmoid")),
    ("broadcast_gate_sums", (X, X, FACTOR, None, X.half(), "mul", "sigmoid")),
    ("broadcast_squeeze", (X, None, 0)),
    ("broadcast_squeeze", (X, None, 2)),
    ("broadcast_squeeze", (X, FACTOR, 1)),
    ("self_gate", (X, None, None, None, COEFFICIENT, 3)),
    ("self_gate", (X, None, None, None, COEFFICIENT[:, :2], 1)),
    ("self_gate", (X, COEFFICIENT.half(), None, None, COEFFICIENT, 1)),
    ("self_gate_sums", (X[:1], X, None, None, None, COEFFICIENT, 1)),
    ("self_gate_backward", (X, X, None, None, None, COEFFICIENT, COEFFICIENT.T, None, 2)),
]


@pytest.mark.parametrize(("op", "arguments"), REFUSED, ids=range(len(REFUSED)))
def test_both_hosts_refuse(host_ops, op, arguments):
    for ops in (host_ops, torch.ops.attn_kernels):
        with pytest.raises(RuntimeError, match="attn_kernels"):
            getattr(ops, op)(*arguments)
