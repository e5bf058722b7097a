"""The ops affine_gate and affine_gate_sums: y = act(scale * x + shift + residual), and its sums."""

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, SHAPES, Contract, Op, make_x
from planes import (
    LAYOUTS,
    STRIDES,
    acc_dtype,
    assert_same_on_any_threads,
    assert_same_with,
    coefficients,
    strided_like,
)

import attn_kernels as ak
from attn_kernels.reference.affine_gate import affine_gate as reference

affine_gate = torch.ops.attn_kernels.affine_gate
affine_gate_sums = torch.ops.attn_kernels.affine_gate_sums
NAN, INF = float("nan"), float("inf")
LONG = (2, 5, 120, 121)
OPERANDS = [(), ("shift",), ("residual",), ("shift", "residual")]


def operands(x, wanted=("shift", "residual")):
    """scale, and the shift and the residual, a slice of a larger map, where they are wanted."""
    scale, shift = coefficients(x, 2)
    residual = make_x(x.shape, x.dtype)
    return scale, shift if "shift" in wanted else None, residual if "residual" in wanted else None


def plain(x, scale, shift, residual, activation):
    return reference(x, scale, shift, residual=residual, activation=activation)


def as_float64(*tensors):
    return [None if t is None else t.double() for t in tensors]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, LONG, (2, 4100, 2, 2)], ids=str)
def test_accuracy(shape, layout, dtype):
    x = make_x(shape, dtype, layout)
    for wanted in OPERANDS:
        given = operands(x, wanted)
        for activation in ("identity", "relu"):
            y = affine_gate(x, *given, activation)
            truth = plain(*as_float64(x, *given), activation)
            assert y.dtype == dtype
            assert y.is_contiguous(memory_format=ak.ops.memory_format(x))
            assert_accurate("y", y, plain(x, *given, activation), truth, FORWARD)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_one_rounding_to_nearest_even(dtype, layout):
    """Exact products of every kind of bit pattern, rounded as PyTorch rounds, NaN and inf too."""
    bits = torch.arange(1 << 16).to(torch.uint16).view(dtype).reshape(1, 1, 256, 256)
    x = torch.cat([bits, bits], 1)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    scale = torch.tensor([[1.0, 1.5]])
    y = affine_gate(x, scale, None, None, "identity")
    truth = (x.float() * scale[:, :, None, None]).to(dtype)
    torch.testing.assert_close(y, truth, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_values(value, dtype, layout):
    x = make_x((2, 21, 17, 18), dtype, layout)
    x[0, 3, 8, 9] = value
    scale, shift, residual = operands(x)
    residual[1, 20, 0, 17] = value
    scale[0, 5] = value
    shift[1, 7] = value
    for activation in ("identity", "relu"):
        y = affine_gate(x, scale, shift, residual, activation)
        truth = plain(x, scale, shift, residual, activation)
        assert torch.equal(y.isnan(), truth.isnan())
        assert torch.equal(y.isinf(), truth.isinf())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_any_strides(view, layout):
    x = view(make_x((4, 9, 8, 10)))
    scale, shift, residual = operands(x)
    dy = make_x(x.shape, layout=layout)

    def forward(x, residual):
        return affine_gate(x, scale, shift, residual, "relu")

    assert_same_with(forward, x, strided_like(residual))
    y = forward(x, residual)
    assert_same_with(affine_gate_sums, strided_like(dy), x, strided_like(y))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 70, 23, 19), (1, 300, 40, 41), (3, 1100, 9, 8)], ids=str)
def test_same_on_any_threads(shape, layout):
    x, dy = make_x(shape, layout=layout), make_x(shape, layout=layout)
    given = operands(x)
    assert_same_on_any_threads(lambda: affine_gate(x, *given, "relu"))
    y = affine_gate(x, *given, "relu")
    assert_same_on_any_threads(lambda: affine_gate_sums(dy, x, y))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_batch(layout):
    x = make_x((0, 6, 5, 4), layout=layout)
    y = affine_gate(x, *operands(x), "relu")
    assert y.shape == x.shape
    d_scale, d_shift, dr = affine_gate_sums(y, x, y)
    assert (d_scale.shape, d_shift.shape, dr.shape) == ((0, 6), (0, 6), x.shape)


# ---- Sums ------------------------------------------------------------------------------------


def plain_sums(dy, x, y):
    dy, x = (t.to(acc_dtype(x)) for t in (dy, x))
    dr = dy if y is None else torch.where(y <= 0, 0, dy)
    return (dr * x).sum((2, 3)), dr.sum((2, 3)), dr


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, LONG, (1, 3, 1000, 1000)], ids=str)
def test_sums(shape, layout, dtype):
    x, dy = make_x(shape, dtype, layout), make_x(shape, dtype, layout)
    for y in (None, affine_gate(x, *operands(x), "relu")):
        *sums, dr = affine_gate_sums(dy, x, y)
        *truths, truth_dr = plain_sums(*as_float64(dy, x, y))
        plains = plain_sums(dy, x, y)
        terms = (truth_dr * x, truth_dr)
        for name, ours, eager, truth, term in zip(
            ("d_scale", "d_shift"), sums, plains, truths, terms, strict=False
        ):
            assert ours.dtype == acc_dtype(x)
            scale = term.abs().sum((2, 3)).max()
            assert_accurate(name, ours, eager, truth, GRADIENT, scale)
        if y is None:
            assert dr.shape == (0,)
        else:
            assert torch.equal(dr, truth_dr.to(dtype))
            assert dr.is_contiguous(memory_format=ak.ops.memory_format(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wanted", OPERANDS, ids=str)
def test_autograds_gradients(wanted, layout):
    """The two passes of the backward are those of autograd."""
    x = make_x((2, 7, 13, 11), torch.float64, layout).requires_grad_()
    inputs = [x, *(None if t is None else t.requires_grad_() for t in operands(x, wanted))]
    y = plain(*inputs, "relu")
    dy = torch.randn_like(y)
    given = [t for t in inputs if t is not None]
    truth = dict(zip(given, torch.autograd.grad(y, given, dy), strict=True))
    d_scale, d_shift, dr = affine_gate_sums(dy, x.detach(), y.detach())
    dx = torch.ops.attn_kernels.squeeze_backward(dr, x.detach(), inputs[1].detach(), *[None] * 6)
    for ours, t in zip((dx, d_scale, d_shift, dr), inputs, strict=True):
        if t is not None:
            torch.testing.assert_close(ours, truth[t])


def test_sums_are_accurate_in_the_mean_of_many():
    """A million terms of one sign: as many digits as float32 has."""
    x = torch.rand(1, 2, 1000, 1000) + 1
    for map in (x, x.contiguous(memory_format=torch.channels_last)):
        d_scale, d_shift, _ = affine_gate_sums(map, map, None)
        wide = map.double()
        for ours, truth in ((d_scale, (wide * wide).sum((2, 3))), (d_shift, wide.sum((2, 3)))):
            torch.testing.assert_close(ours.double(), truth, rtol=1.2e-7, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_of_the_relu_passes(layout):
    """As PyTorch's: where y is NaN the gradient goes through, where it is 0 it does not."""
    y = make_x((2, 20, 5, 4), layout=layout)
    y[0, 3], y[1, 7], y[1, 8] = NAN, 0.0, -0.0
    x, dy = torch.ones_like(y), torch.ones_like(y)
    _, d_shift, dr = affine_gate_sums(dy, x, y)
    assert torch.equal(dr, torch.where(y <= 0, 0.0, 1.0))
    assert (d_shift[0, 3], d_shift[1, 7], d_shift[1, 8]) == (20, 0, 0)


# ---- The public function ---------------------------------------------------------------------


def with_branch(gate):
    """The gate with a residual from x: a function of x and parameters alone."""
    return lambda x, scale, shift: gate(x, scale, shift, residual=x.roll(1, 1), activation="relu")


def eager(x, scale, shift, *, residual, activation):
    return torch.relu(x * scale[:, None, None] + shift[:, None, None] + residual)


def opcheck(x, parameters):
    cases = [(affine_gate.default, (x, *operands(x, wanted), "relu")) for wanted in OPERANDS]
    sums = [(affine_gate_sums.default, (strided_like(x), x, y)) for y in (None, x.relu())]
    return cases + sums


def term_sizes(x, parameters, dy):
    """Size of the terms in the parameters' gradients, whose signs cancel."""
    if x.numel() == 0:
        return [0.0, 0.0]
    dr = dy * (with_branch(eager)(x, *parameters) > 0)
    return [t.abs().sum((0, 2, 3)).max() for t in (dr * x, dr)]


class TestAffineGate(Contract):
    op = Op(
        "affine_gate",
        with_branch(ak.functional.affine_gate),
        with_branch(ak.reference.affine_gate),
        with_branch(eager),
        lambda channels, dtype, device: list(torch.randn(2, channels, dtype=dtype, device=device)),
        opcheck,
        saved_bytes_per_pixel=64 * 4,  # y
        saved_bytes_per_channel=2 * 4,
        scales=term_sizes,
        backward_ops=("affine_gate_sums", "squeeze_backward"),
    )


@pytest.mark.parametrize("shape", [(5,), (3, 5), (3, 5, 1, 1), (1, 5, 1, 1)], ids=str)
def test_shapes_of_factors(shape, device):
    """Each is broadcast to (N, C), and its gradient has its own shape."""
    x = make_x((3, 5, 4, 6), torch.float64, device=device)
    scale, shift = (torch.randn(shape, dtype=torch.float64, device=device) for _ in range(2))

    def found(gate):
        inputs = [t.clone().requires_grad_() for t in (x, scale, shift)]
        y = gate(*inputs)
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    def plain(x, scale, shift):
        scale, shift = (t if t.dim() == 4 else t[..., None, None] for t in (scale, shift))
        return x * scale + shift

    torch.testing.assert_close(found(ak.functional.affine_gate), found(plain))
    torch.testing.assert_close(found(ak.reference.affine_gate), found(plain))


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_only_what_is_asked_for_is_computed(activation, device):
    """Every subset of arguments that require a gradient."""
    x = make_x((2, 4, 5, 3), torch.float64, device=device)
    inputs = [x, *operands(x)]
    for subset in range(1, 16):

        def found(gate, subset=subset):
            given = [t.clone().requires_grad_(bool(subset >> i & 1)) for i, t in enumerate(inputs)]
            y = gate(*given[:3], residual=given[3], activation=activation)
            return torch.autograd.grad(y.square().sum(), [t for t in given if t.requires_grad])

        expected = found(ak.reference.affine_gate)
        torch.testing.assert_close(found(ak.functional.affine_gate), expected)


BAD_ARGUMENTS = [
    (TypeError, "scale: expected a torch.Tensor, got NoneType", (None,), {}),
    (ValueError, r"scale: expected shape \(4,\), .*got \(2, 4, 6, 6\)", ("X",), {}),
    (ValueError, r"shift: expected shape \(4,\), .*got \(1, 4\)", ("V", "V[:1]"), {}),
    (TypeError, "shift: .*got torch.int64", ("V", "V.long()"), {}),
    (ValueError, "shift: expected a tensor on cpu", ("V", "V.to('meta')"), {}),
    (ValueError, "residual: expected shape", ("V",), {"residual": "X[:1]"}),
    (TypeError, "residual: expected torch.float32", ("V",), {"residual": "X.half()"}),
    (ValueError, "activation: expected one of identity, relu", ("V",), {"activation": "'gelu'"}),
]


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"), BAD_ARGUMENTS, ids=[b[1] for b in BAD_ARGUMENTS]
)
def test_bad_input(error, message, arguments, options):
    arguments = [a if a is None else eval(a) for a in arguments]
    with pytest.raises(error, match=message):
        ak.functional.affine_gate(X, *arguments, **{k: eval(v) for k, v in options.items()})


# ---- Direct callers --------------------------------------------------------------------------


X, V = torch.randn(2, 4, 6, 6), torch.ones(2, 4)


REFUSED = [
    (affine_gate, (X[0], V, None, None, "relu")),
    (affine_gate, (X, V[0], None, None, "relu")),
    (affine_gate, (X, V.double(), None, None, "relu")),
    (affine_gate, (X, torch.ones(4, 2).t(), None, None, "relu")),
    (affine_gate, (X, V, V[:1], None, "relu")),
    (affine_gate, (X, V, V.half(), None, "relu")),
    (affine_gate, (X, V, V, X[:1], "relu")),
    (affine_gate, (X, V, V, X.bfloat16(), "relu")),
    (affine_gate, (X, V, V, X, "sigmoid")),
    (affine_gate, (X[:, :, :0], V, V, None, "relu")),
    (affine_gate, (X.long(), V, V, None, "relu")),
    (affine_gate_sums, (X[:, :1], X, None)),
    (affine_gate_sums, (X[:, :0], X[:, :0], None)),
    (affine_gate_sums, (X, X.double(), None)),
    (affine_gate_sums, (X, X, X[..., :1])),
    (affine_gate_sums, (X, X, X[0])),
    (affine_gate_sums, (X, X, X.half())),
]


@pytest.mark.parametrize(("op", "arguments"), REFUSED)
def test_direct_callers_of_the_ops_are_stopped(op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        op(*arguments)
