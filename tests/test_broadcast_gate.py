"""Factors that broadcast to x, statistics that do, and both as one."""

import itertools

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, SHAPES, Contract, Op, make_x
from planes import LAYOUTS, STRIDES, acc_dtype, assert_same_on_any_threads, strided_like

import attn_kernels as ak
from attn_kernels.reference import broadcast_gate as formula
from attn_kernels.reference import broadcast_squeeze as squeeze_formula

f = ak.functional
ops = torch.ops.attn_kernels
STATISTICS = ("mean", "sum", "rows", "columns")
FORMS = list(itertools.product(("mul", "add"), ("identity", "sigmoid", "hardsigmoid"), (0, 1)))


def kinds(x):
    """The shapes of one value per channel, pixel, row and column."""
    n, c, h, w = x.shape
    return {
        "channels": (n, c, 1, 1),
        "pixels": (n, 1, h, w),
        "rows": (n, c, h, 1),
        "columns": (n, c, 1, w),
    }


PAIRS = list(itertools.product(kinds(torch.empty(1, 1, 1, 1)), repeat=2))


def factor(x, kind):
    return torch.randn(kinds(x)[kind], dtype=torch.float64).to(x.dtype)


def eager(x, a, b=None, *, combine="mul", gate="identity", skip=False, residual=None, **epilogue):
    """As a user would write it."""
    u = a if b is None else a * b if combine == "mul" else a + b
    u = {"identity": lambda u: u, "sigmoid": torch.sigmoid}.get(
        gate, lambda u: torch.nn.functional.relu6(u + 3) / 6
    )(u)
    y = x * (1 + u if skip else u)
    y = y if residual is None else y + residual
    return torch.relu(y) if epilogue.get("activation") == "relu" else y


def found(function, x, *factors, dy, **options):
    """y, and the gradients of x and of the factors."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, *factors)]
    y = function(*inputs, **options)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


def assert_right(x, factors, **options):
    dy = make_x(x.shape, x.dtype)
    wide = {k: v.double() if torch.is_tensor(v) else v for k, v in options.items()}
    truths = found(formula, *(t.double() for t in (x, *factors)), dy=dy.double(), **wide)
    plain = found(eager, x, *factors, dy=dy, **options)
    ours = found(f.broadcast_gate, x, *factors, dy=dy, **options)
    terms = (dy.double() * x.double()).abs().sum((1, 2, 3)).max() if x.numel() else 0.0
    for i, (got, expected, truth) in enumerate(zip(ours, plain, truths, strict=True)):
        assert got.dtype == x.dtype
        kind = FORWARD if i == 0 else GRADIENT
        assert_accurate(i, got, expected, truth, kind, terms if i > 1 else 0.0)
    assert ours[0].is_contiguous(memory_format=ak.ops.memory_format(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_pairs_of_factors(pair, layout, dtype):
    for shape in ((2, 5, 7, 6), (1, 33, 5, 19)):
        x = make_x(shape, dtype, layout)
        a, b = (factor(x, kind) for kind in pair)
        assert_right(x, (a, b), residual=make_x(shape, dtype), activation="relu")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [*SHAPES, (1, 3, 50, 61), (20, 2, 3, 3), (1, 5, 3, 1100)], ids=str
)
def test_forms(shape, layout):
    x = make_x(shape, layout=layout)
    for combine, gate, skip in FORMS:
        form = {"combine": combine, "gate": gate, "skip": bool(skip)}
        assert_right(x, (factor(x, "rows"), factor(x, "columns")), **form)
        assert_right(x, (factor(x, "pixels"),), **form)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_factors_of_any_shape(layout):
    """One value for all images, or for all rows of an image; as large as x."""
    x = make_x((3, 4, 5, 6), torch.float64, layout)
    for shape in itertools.product((1, 3), (1, 4), (1, 5), (1, 6)):
        a, b = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
        dy = make_x(x.shape, torch.float64)
        ours, truth = (found(g, x, a, b, dy=dy) for g in (f.broadcast_gate, eager))
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_any_strides(view, layout):
    x = view(make_x((4, 9, 8, 10), torch.float64))
    for pair in PAIRS:
        a, b = (factor(x, kind) for kind in pair)
        dy = make_x(x.shape, torch.float64, layout)
        expected = found(eager, x, a, b, dy=dy)
        torch.testing.assert_close(
            found(f.broadcast_gate, x, strided_like(a), strided_like(b), dy=strided_like(dy)),
            expected,
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 70, 23, 19), (1, 30, 70, 71), (17, 3, 5, 4)], ids=str)
def test_same_on_any_threads(shape, layout):
    x, dy = make_x(shape, layout=layout), make_x(shape)
    for pair in PAIRS:
        a, b = (factor(x, kind) for kind in pair)
        assert_same_on_any_threads(lambda a=a, b=b: found(f.broadcast_gate, x, a, b, dy=dy))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_special_values(value, layout):
    """What they spoil is what they spoil in PyTorch."""
    for pair, (combine, gate, skip) in itertools.product(PAIRS, FORMS):
        x = make_x((2, 5, 6, 19), layout=layout)
        a, b = (factor(x, kind) for kind in pair)
        x[0, 1, 2, 3], b.view(-1)[2] = value, value
        form = {"combine": combine, "gate": gate, "skip": bool(skip)}
        dy = torch.ones_like(x)
        ours, truth = (found(g, x, a, b, dy=dy, **form) for g in (f.broadcast_gate, formula))
        assert torch.equal(ours[0].isnan(), truth[0].isnan())
        assert torch.equal(ours[0].isinf(), truth[0].isinf())
        for got, expected in zip(ours[1:], truth[1:], strict=True):
            assert torch.equal(got.isfinite(), expected.isfinite())


# ---- The contract --------------------------------------------------------------------------------


def parameters(channels, dtype, device):
    return list(torch.randn(2, channels, dtype=dtype, device=device))


def of_parameters(gate):
    """The gate by one factor per channel, one per pixel, with a residual."""

    def function(x, scale, row):
        a, b = scale[:, None, None], row[:, None, None] * x.new_ones(1, 1, x.shape[2], 1)
        ones = {"residual": x.roll(1, 1), "activation": "relu"}
        return gate(x, a[None], b.to(row.dtype), gate="sigmoid", skip=True, **ones)

    return function


def opcheck(x, parameters):
    acc = acc_dtype(x)
    a, b = (torch.randn(kinds(x)[kind], dtype=acc) for kind in ("rows", "columns"))
    weight = torch.randn(kinds(x)["channels"], dtype=acc)
    pixels = torch.randn(kinds(x)["pixels"], dtype=acc)
    form = ("mul", "sigmoid", True)
    back = (weight, weight, pixels, a, b)
    return [
        (ops.broadcast_gate.default, (x, a, b, x, *form, "relu")),
        (ops.broadcast_gate.default, (x, a, None, None, *form, "identity")),
        (ops.broadcast_gate_sums.default, (strided_like(x), x, a, b, x.relu(), *form[:2])),
        (ops.broadcast_gate_sums.default, (x, x, pixels, None, None, *form[:2])),
        (ops.broadcast_squeeze.default, (x, weight, 15)),
        (ops.broadcast_squeeze.default, (x, None, 8)),
        (ops.broadcast_squeeze_backward.default, (x, x, a, b, *back, *form)),
        (ops.broadcast_squeeze_backward.default, (None, x, *[None] * 7, *form)),
        (ops.broadcast_squeeze_carried.default, (x, weight, 15, *form)),
    ]


def term_sizes(x, parameters, dy):
    if x.numel() == 0:
        return [0.0, 0.0]
    dr = dy * (of_parameters(eager)(x, *parameters) > 0)
    size = (dr * x).abs().sum((0, 2, 3)).max()
    return [size * p.abs().max() for p in reversed(parameters)]


class TestBroadcastGate(Contract):
    op = Op(
        "broadcast_gate",
        of_parameters(f.broadcast_gate),
        of_parameters(formula),
        of_parameters(eager),
        parameters,
        opcheck,
        saved_bytes_per_pixel=64 * 4,  # y
        saved_bytes_per_channel=2 * (2 + 4 * 14) * 4,
        scales=term_sizes,
        backward_ops=("broadcast_gate_sums", "broadcast_squeeze_backward"),
    )


# ---- Statistics, and gates of them ---------------------------------------------------------------


def eager_squeeze(x, statistics, weight=None):
    values = {
        "mean": lambda: x.mean((2, 3), keepdim=True),
        "sum": lambda: torch.nn.functional.conv2d(x, weight[None, :, None, None]),
        "rows": lambda: x.mean(3, keepdim=True),
        "columns": lambda: x.mean(2, keepdim=True),
    }
    return tuple(values[name]() for name in statistics)


def squeezed(function, x, weight, names, gradients):
    """The statistics, and the gradients of x and weight."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, weight)]
    values = function(inputs[0], names, inputs[1] if "sum" in names else None)
    gradients = [g.to(v.dtype) for g, v in zip(gradients, values, strict=True)]
    wanted = inputs if "sum" in names else inputs[:1]
    return [*(v.detach() for v in values), *torch.autograd.grad(values, wanted, gradients)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 3, 120, 121), (1, 5, 3, 300)], ids=str)
def test_statistics(shape, layout, dtype):
    x, weight = make_x(shape, dtype, layout), torch.randn(shape[1]).to(dtype)
    for names in (*((name,) for name in STATISTICS), STATISTICS[::-1]):
        gradients = [
            torch.randn(kinds(x)[k])
            for k in ({"mean": "channels", "sum": "pixels"}.get(name, name) for name in names)
        ]
        args = (names, gradients)
        truth = squeezed(squeeze_formula, x.double(), weight.double(), *args)
        plain = squeezed(eager_squeeze, x, weight, *args)
        ours = squeezed(f.broadcast_squeeze, x, weight, *args)
        for i, results in enumerate(zip(ours, plain, truth, strict=True)):
            assert results[0].dtype == dtype
            values = i < len(names)
            scale = 0.0 if values else x.double().abs().sum((0, 2, 3)).max() * 4
            assert_accurate(
                i, *results, FORWARD if values else GRADIENT, scale if i > len(names) else 0.0
            )


def carried(x, weight, bias):
    def of(mean, total, rows, columns):
        own = bias.to(mean.dtype)[:, None, None]
        return mean.tanh() * own + rows.mean(2, keepdim=True), total + columns.mean((1, 3), True)

    return f.broadcast_squeeze_gate(x, of, STATISTICS, weight, combine="add", gate="sigmoid")


def in_two_calls(squeeze, gate):
    def function(x, weight, bias):
        mean, total, rows, columns = squeeze(x, STATISTICS, weight)
        own = bias.to(mean.dtype)[:, None, None]
        a = mean.tanh() * own + rows.mean(2, keepdim=True)
        b = total + columns.mean((1, 3), True)
        return gate(x, a, b, combine="add", gate="sigmoid")

    return function


def sizes_of_terms(x, parameters, dy):
    if x.numel() == 0:
        return [0.0, 0.0]
    size = (dy * x).abs().sum() / x.shape[0]
    return [size * x.abs().max(), size * 4]


class TestBroadcastSqueezeGate(Contract):
    op = Op(
        "broadcast_squeeze",
        carried,
        in_two_calls(squeeze_formula, formula),
        in_two_calls(eager_squeeze, eager),
        parameters,
        opcheck,
        saved_bytes_per_pixel=64 * 4 * 3,  # the mix's own: maps of one channel
        saved_bytes_per_channel=2 * (14 + 14 + 12) * 4 * 3,
        scales=sizes_of_terms,
        forward_ops=("broadcast_squeeze_carried", "broadcast_gate_carried"),
        backward_ops=("broadcast_gate_sums", "broadcast_squeeze_backward"),
    )


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_carrier(layout, pair):
    """Factors of every two shapes, made of all statistics; also two of the same shape."""
    x = make_x((2, 3, 4, 5), torch.float64, layout)
    weight = torch.randn(3, dtype=torch.float64)
    shapes = [kinds(x)[kind] for kind in pair]

    def own(*statistics):
        total = sum(t.sin().expand(x.shape) for t in statistics)
        axes = ([i for i in (1, 2, 3) if shape[i] == 1] for shape in shapes)
        return tuple((total * (i + 2)).mean(a, keepdim=True) for i, a in enumerate(axes))

    def twice(gate):
        given = [t.clone().requires_grad_() for t in (x, weight)]
        y = gate(*given)
        first = torch.autograd.grad(y.sin().sum(), given, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum(t.square().sum() for t in first), given)]

    ours = twice(lambda x, w: f.broadcast_squeeze_gate(x, own, STATISTICS, w, residual=x))
    expected = twice(lambda x, w: formula(x, *own(*squeeze_formula(x, STATISTICS, w)), residual=x))
    torch.testing.assert_close(ours, expected)


X = torch.randn(2, 4, 6, 5)
A = torch.ones(2, 4, 1, 1)
BAD = [
    (TypeError, "a: expected a torch.Tensor, got float", lambda: f.broadcast_gate(X, 1.0)),
    (
        ValueError,
        r"a: expected a shape \(2 or 1, 4 or 1, 6 or 1, 5 or 1\), got \(4,\)",
        lambda: f.broadcast_gate(X, A[0, :, 0, 0]),
    ),
    (ValueError, r"b: .*got \(2, 3, 1, 1\)", lambda: f.broadcast_gate(X, A, A[:, :3])),
    (ValueError, "b: expected a tensor on cpu", lambda: f.broadcast_gate(X, A, A.to("meta"))),
    (
        ValueError,
        "combine: expected one of mul, add, got '\\*'",
        lambda: f.broadcast_gate(X, A, A, combine="*"),
    ),
    (
        ValueError,
        "gate: expected one of identity, sigmoid, hardsigmoid, got 'relu'",
        lambda: f.broadcast_gate(X, A, gate="relu"),
    ),
    (TypeError, "skip: expected True or False, got 1", lambda: f.broadcast_gate(X, A, skip=1)),
    (ValueError, "residual: expected shape", lambda: f.broadcast_gate(X, A, residual=A)),
    (
        ValueError,
        "statistics: expected some of mean, sum, rows, columns, got 'max'",
        lambda: f.broadcast_squeeze(X, ("max",)),
    ),
    (
        ValueError,
        "weight: expected one for the sum over channels, got none",
        lambda: f.broadcast_squeeze(X, ("sum",)),
    ),
    (
        ValueError,
        "weight: .*got one without statistics's 'sum'",
        lambda: f.broadcast_squeeze(X, ("rows",), torch.ones(4)),
    ),
    (
        ValueError,
        r"weight: expected shape \(4,\)",
        lambda: f.broadcast_squeeze(X, ("sum",), torch.ones(3)),
    ),
    (TypeError, "mix: expected a callable, got Tensor", lambda: f.broadcast_squeeze_gate(X, X)),
    (
        TypeError,
        "mix: expected it to return a or .*got 3",
        lambda: f.broadcast_squeeze_gate(X, lambda r, c: (r, c, c)),
    ),
    (
        ValueError,
        "mix's b: expected a shape",
        lambda: f.broadcast_squeeze_gate(X, lambda r, c: (r, c[:, :2])),
    ),
    (
        TypeError,
        "mix's a: expected torch.float32",
        lambda: f.broadcast_squeeze_gate(X, lambda r, c: r.double()),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (ops.broadcast_gate, (X, A[:1], None, None, "mul", "identity", False, "identity")),
        (ops.broadcast_gate, (X, A.double(), None, None, "mul", "identity", False, "identity")),
        (ops.broadcast_gate, (X, A, A[:, :3], None, "mul", "identity", False, "identity")),
        (ops.broadcast_gate, (X, A, None, A, "mul", "identity", False, "identity")),
        (ops.broadcast_gate, (X, A, None, None, "min", "identity", False, "identity")),
        (ops.broadcast_gate, (X, A, None, None, "mul", "tanh", False, "identity")),
        (ops.broadcast_gate, (X, A, None, None, "mul", "identity", False, "sigmoid")),
        (ops.broadcast_gate_sums, (X[:1], X, A, None, None, "mul", "identity")),
        (ops.broadcast_squeeze, (X, None, 0)),
        (ops.broadcast_squeeze, (X, None, 2)),
        (ops.broadcast_squeeze, (X, A, 1)),
    ],
)
def test_direct_callers_of_the_ops_are_stopped(op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        op(*arguments)
